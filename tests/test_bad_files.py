"""A command goes on after files that can't be used."""

import pytest

from sap_detr.bad_files import BadFiles


def use_all(bad, files):
    used = []
    for file in files:
        with bad.skipping(file):
            if file.startswith("bad"):
                raise LookupError(f"{file} is\nodd")
            if file.startswith("worse"):
                raise ValueError(file)
            used.append(file)
    return used


def test_bad_files_are_counted_and_listed_and_the_others_used():
    bad = BadFiles(LookupError)
    used = use_all(bad, ["a", "bad1", "b", "bad2"])
    assert used == ["a", "b"]
    assert str(bad).splitlines() == ["2 files left out:", "  bad1 is odd", "  bad2 is odd"]
    assert list(bad.reasons) == ["bad1", "bad2"]
    assert bad.exit_status(len(used)) == 1


@pytest.mark.parametrize(
    ("files", "status"), [([], 0), (["a"], 0), (["a", "bad"], 1), (["bad"], 2)]
)
def test_exit_status(files, status):
    bad = BadFiles(LookupError)
    assert bad.exit_status(len(use_all(bad, files))) == status


def test_other_errors_and_the_first_on_request_end_the_command():
    with pytest.raises(ValueError, match="worse"):
        use_all(BadFiles(LookupError), ["worse"])
    bad = BadFiles(LookupError, stop_at_first=True)
    with pytest.raises(LookupError, match="bad1"):
        use_all(bad, ["bad1", "bad2"])
    assert not bad.reasons
