"""A folder for each chapter, with the chapter's name; attacks, faults, interoperation and the house beside them."""
