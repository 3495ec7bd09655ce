"""Objects that are no plain image, as devices and software make them, well and badly written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from tests.integration.dicomweb.conftest import make_image

_PIXELS = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
)  # fmt: skip


def _document(sop_class_uid: str, modality: str, **attributes: object) -> Dataset:
    made = make_image(SOPClassUID=sop_class_uid, Modality=modality)
    for keyword in _PIXELS:
        delattr(made, keyword)
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def _item(**attributes: object) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def _code(value: str, meaning: str) -> Sequence:
    return Sequence([_item(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)])


def _reference() -> Dataset:
    return _item(
        ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.7", ReferencedSOPInstanceUID=generate_uid()
    )


def structured_report() -> Dataset:
    """Comprehensive SR with a tree of 40 levels."""
    leaf = _item(
        RelationshipType="CONTAINS", ValueType="TEXT", TextValue="Karies an 11 – «später»",
        ConceptNameCodeSequence=_code("121071", "Finding"),
    )  # fmt: skip
    for _ in range(40):
        leaf = _item(
            RelationshipType="CONTAINS", ValueType="CONTAINER", ContinuityOfContent="SEPARATE",
            ConceptNameCodeSequence=_code("121070", "Findings"), ContentSequence=[leaf],
        )  # fmt: skip
    return _document(
        "1.2.840.10008.5.1.4.1.1.88.33", "SR",
        ValueType="CONTAINER", ContinuityOfContent="SEPARATE", CompletionFlag="COMPLETE",
        VerificationFlag="UNVERIFIED", ConceptNameCodeSequence=_code("126000", "Report"),
        ContentSequence=[leaf],
    )  # fmt: skip


def segmentation() -> Dataset:
    """Two frames of single bits, which end within a byte."""
    made = make_image(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", Modality="SEG", NumberOfFrames=2,
        Rows=5, Columns=7, BitsAllocated=1, BitsStored=1, HighBit=0,
        PixelData=np.packbits(np.arange(70) % 3 == 0, bitorder="little").tobytes() + b"\0",
    )  # fmt: skip
    made.SegmentationType = "BINARY"
    made.SegmentSequence = [_item(SegmentNumber=1, SegmentLabel="11")]
    return made


def presentation_state() -> Dataset:
    """Grayscale softcopy presentation state with a drawing."""
    circle = _item(
        GraphicAnnotationUnits="PIXEL", GraphicDimensions=2, NumberOfGraphicPoints=2,
        GraphicData=[1.5, 2.5, 3.5, 4.5], GraphicType="CIRCLE", GraphicFilled="N",
    )  # fmt: skip
    return _document(
        "1.2.840.10008.5.1.4.1.1.11.1", "PR",
        ContentLabel="CIRCLE", ReferencedSeriesSequence=[
            _item(SeriesInstanceUID=generate_uid(), ReferencedImageSequence=[_reference()])
        ],
        GraphicAnnotationSequence=[_item(GraphicLayer="ONE", GraphicObjectSequence=[circle])],
    )  # fmt: skip


def key_objects() -> Dataset:
    """Key Object Selection."""
    image = _item(
        RelationshipType="CONTAINS", ValueType="IMAGE", ReferencedSOPSequence=[_reference()]
    )
    return _document(
        "1.2.840.10008.5.1.4.1.1.88.59", "KO", ValueType="CONTAINER",
        ConceptNameCodeSequence=_code("113000", "Of Interest"), ContentSequence=[image],
    )  # fmt: skip


def encapsulated(sop_class_uid: str, modality: str, media_type: str, body: bytes) -> Dataset:
    """A document inside."""
    return _document(
        sop_class_uid, modality, MIMETypeOfEncapsulatedDocument=media_type,
        DocumentTitle="Befund", EncapsulatedDocument=body,
    )  # fmt: skip


def waveform() -> Dataset:
    """Audio: two channels of 16 bits."""
    group = _item(
        WaveformOriginality="ORIGINAL", NumberOfWaveformChannels=2, NumberOfWaveformSamples=500,
        SamplingFrequency="8000", WaveformBitsAllocated=16, WaveformSampleInterpretation="SS",
    )  # fmt: skip
    group.add_new("WaveformData", "OW", np.arange(1000, dtype="<i2").tobytes())
    return _document("1.2.840.10008.5.1.4.1.1.9.4.2", "AU", WaveformSequence=[group])


def enhanced() -> Dataset:
    """Enhanced CT of 30 frames with functional groups of each."""
    made = make_image(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", Modality="CT", NumberOfFrames=30)
    made.PerFrameFunctionalGroupsSequence = [
        _item(PlanePositionSequence=[_item(ImagePositionPatient=[0, 0, n])]) for n in range(30)
    ]
    return made


def without_values() -> Dataset:
    """Everything that may be empty is, and much that may not."""
    return make_image(
        StudyDate="", StudyTime="", AccessionNumber="", PatientName="", PatientID="",
        PatientBirthDate="", PatientSex="", Modality="", SeriesNumber=None, InstanceNumber=None,
        StudyDescription="", ReferringPhysicianName="", SeriesDescription="", StudyID="",
    )  # fmt: skip


def breaking_its_vrs() -> Dataset:
    """Values that their VRs do not allow, as they are seen in the field."""
    made = make_image(PatientID=generate_uid()[-12:])
    for keyword, vr, value in (
        ("StudyDate", "DA", b"14.03.26"),
        ("StudyTime", "TM", b"ten past "),
        ("PatientBirthDate", "DA", b"00000000"),
        ("PatientSex", "CS", b"male"),
        ("SeriesNumber", "IS", b"one "),
        ("InstanceNumber", "IS", b"1.5 "),
        ("PatientAge", "AS", b"45"),
        ("KVP", "DS", b"seventy "),
        ("Modality", "CS", b"intra oral"),
        ("AccessionNumber", "SH", b"a number that is far longer than sixteen"),
        ("InstitutionName", "LO", b"\xff\xfe\x80 clinic "),
        ("PixelSpacing", "DS", b"0,1\\0,1 "),
    ):
        made.add_new(keyword, vr, "")
        made[keyword]._value = value if vr == "UN" else value.decode("latin-1")
    return made


def in_charset(term: str, name: str) -> Dataset:
    """A name in another character set."""
    return make_image(
        SpecificCharacterSet=term.split("\\") if "\\" in term else term, PatientName=name,
        PatientID=generate_uid()[-12:], StudyDescription=None, ReferringPhysicianName=None,
    )  # fmt: skip


def private() -> Dataset:
    """Private elements: known VRs, unknown ones, a sequence, and a creator that is missing."""
    made = make_image(PatientID=generate_uid()[-12:])
    block = made.private_block(0x0019, "ACME DENTAL", create=True)
    block.add_new(0x01, "LO", "private")
    block.add_new(0x02, "UN", b"\x01\x02\x03\x04")
    block.add_new(0x03, "SQ", [_item(PatientComments="inside")])
    made.add_new(0x00291020, "OB", b"no creator..")
    return made


def in_syntax(dataset: Dataset, transfer_syntax_uid: UID) -> Dataset:
    dataset.file_meta.TransferSyntaxUID = transfer_syntax_uid
    return dataset


KINDS: dict[str, Callable[[], Dataset]] = {
    "SR": structured_report,
    "SEG": segmentation,
    "GSPS": presentation_state,
    "KO": key_objects,
    "PDF": lambda: encapsulated(
        "1.2.840.10008.5.1.4.1.1.104.1", "DOC", "application/pdf", b"%PDF-1.4 not much of it "
    ),
    "STL": lambda: encapsulated(
        "1.2.840.10008.5.1.4.1.1.104.3", "M3D", "model/stl", bytes(80) + b"\x01\0\0\0" + bytes(50)
    ),
    "waveform": waveform,
    "enhanced CT": enhanced,
    "SR, implicit": lambda: in_syntax(structured_report(), ImplicitVRLittleEndian),
    "enhanced CT, big-endian": lambda: in_syntax(enhanced(), ExplicitVRBigEndian),
    "private, implicit": lambda: in_syntax(private(), ImplicitVRLittleEndian),
    "private, big-endian": lambda: in_syntax(private(), ExplicitVRBigEndian),
    "private": private,
    "no values": without_values,
    "Latin 1": lambda: in_charset("ISO_IR 100", "Müller^Jürgen"),
    "Cyrillic": lambda: in_charset("ISO_IR 144", "Люкceмбypг"),
    "Greek": lambda: in_charset("ISO_IR 126", "Διονυσιος"),
    "Japanese": lambda: in_charset("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "GB18030": lambda: in_charset("GB18030", "Wang^XiaoDong=王^小东"),
}
