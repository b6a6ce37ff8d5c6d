"""The pictures of the bench, on values that are known. test_bench.py runs this in a process of its own."""

import pytest

from tools.bench import measure, pictures


@pytest.fixture(scope="module", autouse=True)
def fonts(tmp_path_factory):
    """Draw everything once: matplotlib keeps the files of its fonts open from then on."""
    pictures.draw(tmp_path_factory.mktemp("first"), picture_values(), {}, "a machine")


def picture_values(servers=(1, 2, 5, 10)):
    """Values of every experiment, as a run writes them."""
    storage = {name: [1e8 * count * number for count in servers] for number, name in enumerate(("layers", "disks"), 1)}
    return {
        "start.first_line": {"library": [0.005, 0.006], "minimal": [1.5, None]},
        "laps": {"birth": [0.003, 0.004], "gate": [0.001, 0.001]},
        "storage.servers": {"servers": list(servers)},
        "storage": storage,
        "storage.computed": storage,
        "density.minidocker": {"number": [1], "memory": [2e5], "used": [6e5]},
        "density.minimal": {"number": [1], "memory": [2e8], "used": [2e8]},
        "demand.latency": {"minidocker": [0.01, 0.011], "standing": [0.001, 0.001], "vm": [2.0, None]},
        "sharing.work": {name: [1e-5] for name in ("minidocker", "halves", "shares at once", "halves at once")},
    }


def without_machines(values):
    """The same from a machine that has no virtual machines."""
    gone = {"minimal", "disks", "vm"}
    kept = {key: {name: it for name, it in table.items() if name not in gone} for key, table in values.items()}
    return {key: table for key, table in kept.items() if key != "density.minimal"}


def texts(figure):
    """All that is written in a picture."""
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_pictures_of_a_whole_run_are_drawn_from_values_that_were_written_and_read(tmp_path):
    measure.write(tmp_path, [], picture_values())
    pictures.draw(tmp_path, measure.read(tmp_path / "bench.csv"), {}, "a machine")
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert names == {"start", "laps", "storage", "density", "demand", "sharing"}


def test_what_is_recorded_is_grey_and_says_so(monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(pictures.plt, "close", lambda figure: drawn.setdefault(len(drawn), texts(figure)))
    pictures.draw(tmp_path, without_machines(picture_values()), picture_values(), "a machine")
    said = [text for text in sum(drawn.values(), []) if "(recorded)" in text]
    assert any(text.startswith("smallest VM (recorded)") for text in said)
    assert any(text.startswith("VM disks") for text in said)
    assert any(text.startswith("a smallest VM for each (recorded)") for text in said)
    assert not [text for text in said if "minidocker" in text or "layers" in text]


def test_what_is_measured_is_never_called_recorded(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(pictures.plt, "close", lambda figure: drawn.extend(texts(figure)))
    pictures.draw(tmp_path, picture_values(), picture_values(), "a machine")
    assert not [text for text in drawn if "(recorded)" in text]
