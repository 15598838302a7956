"""No element's text reaches an error."""

from __future__ import annotations

import io
import traceback
from pathlib import Path

import pydicom
import pytest

from shared.errors import PermanentError
from shared.pixels import PixelLimits, read_frames, read_header

DATA = Path(pydicom.__file__).parent / "data" / "test_files"
SECRET = "DOE^JANE"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["MR_small.dcm", "examples_palette.dcm", "MR_small_RLE.dcm"])
def test_no_error_holds_an_elements_text(name):
    data = (DATA / name).read_bytes()
    keywords = [element.keyword for element in pydicom.dcmread(io.BytesIO(data)) if element.keyword]
    refused = 0
    for keyword in {*keywords, "NumberOfFrames", "TransferSyntaxUID", "WindowCenter", "SOPClassUID"} - {"PixelData"}:
        for vr in ("LO", "IS", "CS"):
            dataset = pydicom.dcmread(io.BytesIO(data))
            target = dataset.file_meta if keyword == "TransferSyntaxUID" else dataset
            tag = pydicom.datadict.tag_for_keyword(keyword)
            target[tag] = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(tag), vr, len(SECRET), SECRET.encode(), 0, False, True
            )
            buffer = io.BytesIO()
            try:
                dataset.save_as(buffer, implicit_vr=False, little_endian=True)
            except Exception:
                continue
            for function in (read_frames, read_header):
                try:
                    function(buffer.getvalue(), limits=PixelLimits())
                except PermanentError as error:
                    refused += 1
                    text = str(error) + "".join(traceback.format_exception(error))
                    assert SECRET not in text, keyword
    assert refused
