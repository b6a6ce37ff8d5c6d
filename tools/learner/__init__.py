"""What a learner calls: the lab with their own copies, the grading, a run of everything."""
