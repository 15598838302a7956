"""What a service's log must and must not show. In a process of its own: logging is global."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import logging, warnings
import pydicom
from pydicom.dataset import Dataset
from shared.logs import configure_logging
configure_logging("listener", log_format={format!r}, level="DEBUG")
ds = Dataset()
ds.PatientBirthDate = "Secret^Name"
ds.is_implicit_VR, ds.is_little_endian = False, True
warnings.warn("Secret^Name is no date")
logging.getLogger("pydicom").warning("Invalid value Secret^Name")
try:
    raise ValueError("boom")
except ValueError:
    logging.getLogger("shared.test").exception("it failed")
"""


def log_of(log_format: str) -> str:
    command = [sys.executable, "-c", SCRIPT.format(format=log_format)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_json_is_one_object_a_line_with_the_traceback_inside() -> None:
    (line,) = log_of("json").splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["service"], entry["message"]) == ("ERROR", "listener", "it failed")
    assert entry["exception"].startswith("ValueError in <string>, line ")
    assert "boom" not in entry["exception"]


def test_values_that_a_library_quotes_in_a_warning_are_not_logged() -> None:
    for log_format in ("text", "json"):
        assert "Secret" not in log_of(log_format)
        assert "it failed" in log_of(log_format)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_error_is_logged_by_kind_and_place_and_never_by_the_text_that_quotes_what_it_choked_on(log_format):
    code = f"""
import logging
from shared.errors import ConfigurationError
from shared.logs import configure_logging
configure_logging("probe", log_format={log_format!r}, level="INFO")
try:
    try:
        int("Synthetic^Verysecret")
    except ValueError as error:
        raise ConfigurationError("our own words") from error
except ConfigurationError:
    logging.getLogger("x").exception("it failed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "Verysecret" not in done.stderr
    assert "ValueError in <string>, line 8" in done.stderr
    assert "our own words" in done.stderr
    assert "it failed" in done.stderr
