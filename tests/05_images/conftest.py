"""What the tests of moving images share: two stores, and an image to move."""

import pytest

# The package is imported late: a reader's module may have to take its place first, see tests/conftest.py.


@pytest.fixture
def here(tmp_path):
    """The store that images come from."""
    from minidocker.images.store import Store

    return Store(str(tmp_path / "here"))


@pytest.fixture
def there(tmp_path):
    """The store that they are brought to."""
    from minidocker.images.store import Store

    return Store(str(tmp_path / "there"))


@pytest.fixture
def app(here, tmp_path):
    """An image of two layers, without a name."""
    from tests.helpers.registries import image, tree

    return image(here, "", [tree(tmp_path / "base", "base"), tree(tmp_path / "app", "app")])
