"""Whatever is stored, deleted and sent again, in any order and by any door: ImagingStudy says of a
study what QIDO-RS says, at the next read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from interop.dicom.importer import import_paths
from interop.dicom.ingest_types import Source
from storage.tenancy import Tenant
from tests.integration.access.conftest import Door
from tests.integration.dicomweb.conftest import make_image, multipart, part10

STOW = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=frontier'}
SR = "1.2.840.10008.5.1.4.1.1.88.11"


class World:
    """Some studies of some patients, of which every instance is stored or not."""

    def __init__(
        self, door: Door, tenant: Tenant, dicomweb: httpx.Client, folder: Path, seed: int
    ) -> None:
        self.door, self.tenant, self.dicomweb, self.folder = door, tenant, dicomweb, folder
        self.rng = random.Random(seed)
        self.instances = [image for _ in range(3) for image in self._study()]
        self.stored: set[str] = set()

    def _study(self) -> list[Dataset]:
        study, patient = generate_uid(), generate_uid()[-12:]
        made = []
        for series in range(self.rng.randint(1, 3)):
            uid, modality = generate_uid(), self.rng.choice(("IO", "PX", "CT", "SR"))
            for number in range(self.rng.randint(1, 4)):
                made.append(
                    make_image(
                        StudyInstanceUID=study,
                        SeriesInstanceUID=uid,
                        PatientID=patient,
                        Modality=modality,
                        SOPClassUID=SR if modality == "SR" else "1.2.840.10008.5.1.4.1.1.7",
                        SeriesNumber=self.rng.choice((series, None, -1)),
                        InstanceNumber=self.rng.choice((number, number, None)),
                        SeriesDescription=self.rng.choice(("links", "Müller's", "")),
                        AccessionNumber=self.rng.choice(("A1", "")),
                    )
                )
        return made

    def step(self) -> None:
        """Store some, by one of the doors, or delete something."""
        chosen = self.rng.sample(self.instances, self.rng.randint(1, 4))
        self.rng.choice((self.stow, self.stow, self.c_store, self.import_, self.delete))(chosen)

    def stow(self, chosen: list[Dataset]) -> None:
        answer = self.dicomweb.post(
            "/studies", content=multipart(*map(part10, chosen)), headers=STOW
        )
        assert answer.status_code == 200, answer.text
        self._note(chosen)

    def c_store(self, chosen: list[Dataset]) -> None:
        services = self.door.services
        for image in chosen:
            writer = services.spool.writer()
            writer.write(part10(image))
            source = Source("C-STORE", "CT", calling_ae_title="CT", called_ae_title="INTEROP")
            assert services.ingest.store(self.tenant, writer.finish(), source).is_success
        self._note(chosen)

    def import_(self, chosen: list[Dataset]) -> None:
        folder = self.folder / generate_uid()
        folder.mkdir()
        for image in chosen:
            (folder / f"{image.SOPInstanceUID}.dcm").write_bytes(part10(image))
        report = import_paths(self.door.services, self.tenant, [folder])
        assert report.refused + report.failed == 0, report.problems
        self._note(chosen)

    def delete(self, chosen: list[Dataset]) -> None:
        image = chosen[0]
        level = self.rng.randint(1, 3)
        names = ("studies", "series", "instances")
        uids = (image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID)
        path = "".join(
            f"/{name}/{uid}" for name, uid in list(zip(names, uids, strict=True))[:level]
        )
        gone = {
            str(other.SOPInstanceUID)
            for other in self.instances
            if (other.StudyInstanceUID, other.SeriesInstanceUID, other.SOPInstanceUID)[:level]
            == uids[:level]
        }
        expected = 204 if gone & self.stored else 404
        assert self.dicomweb.delete(path).status_code == expected
        self.stored -= gone

    def _note(self, chosen: list[Dataset]) -> None:
        self.stored |= {str(image.SOPInstanceUID) for image in chosen}


def said_by_qido(dicomweb: httpx.Client, study: str) -> dict[str, Any] | None:
    found = dicomweb.get(f"/studies?StudyInstanceUID={study}&includefield=all").json()
    if not found:
        return None
    series = dicomweb.get(f"/studies/{study}/series?includefield=all").json()
    instances = dicomweb.get(f"/studies/{study}/instances?includefield=all").json()

    def value(item: dict[str, Any], tag: str) -> Any:
        values = item.get(tag, {}).get("Value") or [None]
        return values[0]

    def number(item: dict[str, Any], tag: str) -> int | None:
        # FHIR has no negative numbers here.
        found = value(item, tag)
        return found if found is not None and found >= 0 else None

    [top] = found
    return {
        "study": study,
        "accession": value(top, "00080050"),
        "modalities": sorted(top["00080061"].get("Value", [])),
        "description": value(top, "00081030"),
        "series_count": value(top, "00201206"),
        "instance_count": value(top, "00201208"),
        "series": {
            value(one, "0020000E"): (
                number(one, "00200011"),
                value(one, "00080060"),
                value(one, "0008103E"),
                value(one, "00201209"),
            )
            for one in series
        },
        "instances": {
            value(one, "00080018"): (
                value(one, "0020000E"),
                value(one, "00080016"),
                number(one, "00200013"),
            )
            for one in instances
        },
    }


def said_by_fhir(fhir: httpx.Client, study: str) -> dict[str, Any] | None:
    bundle = fhir.get(f"/ImagingStudy?identifier=urn:dicom:uid|urn:oid:{study}").json()
    if not bundle.get("entry"):
        return None
    [entry] = bundle["entry"]
    shown = entry["resource"]
    assert shown["status"] == "available"
    accession = [i["value"] for i in shown["identifier"] if i.get("system") != "urn:dicom:uid"]
    series = shown.get("series", [])
    return {
        "study": study,
        "accession": accession[0] if accession else None,
        "modalities": sorted(coding["code"] for coding in shown.get("modality", [])),
        "description": shown.get("description"),
        "series_count": shown["numberOfSeries"],
        "instance_count": shown["numberOfInstances"],
        "series": {
            one["uid"]: (
                one.get("number"),
                one["modality"]["code"],
                one.get("description"),
                one["numberOfInstances"],
            )
            for one in series
        },
        "instances": {
            instance["uid"]: (
                one["uid"],
                instance["sopClass"]["code"].removeprefix("urn:oid:"),
                instance.get("number"),
            )
            for one in series
            for instance in one["instance"]
        },
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_both_say_the_same_after_every_step(
    door: Door,
    tenant: Tenant,
    dicomweb: httpx.Client,
    fhir: httpx.Client,
    tmp_path: Path,
    seed: int,
) -> None:
    door.execute(
        "UPDATE tenant_settings SET default_retention_min_years = 0 WHERE tenant_id = %s", tenant.id
    )
    world = World(door, tenant, dicomweb, tmp_path, seed)
    studies = {str(image.StudyInstanceUID) for image in world.instances}
    seen = 0
    for _ in range(14):
        world.step()
        for study in sorted(studies):
            qido = said_by_qido(dicomweb, study)
            assert said_by_fhir(fhir, study) == qido
            expected = {
                str(image.SOPInstanceUID)
                for image in world.instances
                if image.StudyInstanceUID == study
            } & world.stored
            assert (set(qido["instances"]) if qido else set()) == expected
            if qido is not None:
                assert qido["instance_count"] == len(expected)
                assert qido["series_count"] == len(qido["series"])
                assert sum(one[3] for one in qido["series"].values()) == len(expected)
                seen += 1
    assert seen > 10
