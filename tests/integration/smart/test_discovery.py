"""What the server says that it can do, each capability done; SMART Imaging Access end to end."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom
import pytest
from joserfc.jwk import KeySet
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from interop.smart.discovery import CAPABILITIES
from tests.integration.smart.conftest import Person, SmartServer, pkce
from tests.integration.smart.test_launch_and_registration import start
from tests.integration.smart.test_security_identity import Service

IMAGING = "http://fhir.org/argonaut/smart-imaging/capabilities"


def configuration(smart: SmartServer) -> dict[str, Any]:
    answer = smart.http.get(f"{smart.fhir}/.well-known/smart-configuration")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["access-control-allow-origin"] == "*"
    body: dict[str, Any] = answer.json()
    return body


def test_every_address_of_the_configuration_answers(smart: SmartServer) -> None:
    found = configuration(smart)

    for name in ("jwks_uri", "management_endpoint", "authorization_endpoint"):
        assert smart.http.get(found[name]).status_code in (200, 303, 400), name
    for name in ("token", "introspection", "revocation", "registration"):
        answer = smart.http.post(found[f"{name}_endpoint"], data={})
        assert answer.status_code in (400, 401), name
        assert set(answer.json()) == {"error", "error_description"}


def test_openid_configuration_is_at_the_issuer_and_agrees(smart: SmartServer) -> None:
    found = configuration(smart)

    openid = smart.http.get(f"{found['issuer']}/.well-known/openid-configuration").json()

    assert openid["issuer"] == found["issuer"]
    for name in ("jwks_uri", "authorization_endpoint", "token_endpoint", "scopes_supported"):
        assert openid[name] == found[name]
    assert openid["id_token_signing_alg_values_supported"] == ["RS256"]
    keys = KeySet.import_key_set(smart.http.get(openid["jwks_uri"]).json())
    assert {key.as_dict()["alg"] for key in keys.keys} == {"RS256", "ES256"}
    assert not any("d" in key.as_dict() for key in keys.keys)


def test_every_scope_that_is_supported_can_be_registered(smart: SmartServer) -> None:
    app = smart.register(" ".join(configuration(smart)["scopes_supported"]))

    assert app.client.scopes


def test_the_capability_statement_names_the_same_addresses(smart: SmartServer) -> None:
    found = configuration(smart)
    statement = smart.http.get(f"{smart.fhir}/metadata").json()

    security = statement["rest"][0]["security"]
    (extension,) = security["extension"]
    uris = {item["url"]: item["valueUri"] for item in extension["extension"]}
    assert uris == {
        "authorize": found["authorization_endpoint"],
        "token": found["token_endpoint"],
        "register": found["registration_endpoint"],
        "manage": found["management_endpoint"],
        "introspect": found["introspection_endpoint"],
        "revoke": found["revocation_endpoint"],
    }


def test_an_unknown_tenant_is_not_told_apart(smart: SmartServer) -> None:
    answer = smart.http.get(f"{smart.url}/t/nowhere/fhir/R4/.well-known/smart-configuration")

    assert (
        answer.text.replace("/t/nowhere", f"/t/{smart.tenant.slug}")
        == smart.http.get(f"{smart.fhir}/.well-known/smart-configuration").text
    )


# -- every capability -----------------------------------------------------------------------

Walk = Callable[[SmartServer, Person], None]


def ehr(smart: SmartServer, dentist: Person, **more: Any) -> dict[str, Any]:
    chosen, _ = smart.patient("Walked")
    value = start(smart, smart.cookie(dentist), patient=chosen, **more).json()["launch"]
    body = smart.tokens(dentist, smart.register(), scope="launch patient/*.rs", launch=value)
    assert body["patient"] == chosen
    return body


def standalone(smart: SmartServer, dentist: Person, scope: str, **app: Any) -> dict[str, Any]:
    chosen, _ = smart.patient("Walked")
    body = smart.tokens(
        dentist, smart.register(**app), scope=f"launch/patient {scope}", patient=chosen
    )
    assert body["patient"] == chosen
    return body


def authorize_post(smart: SmartServer, dentist: Person) -> None:
    _, challenge = pkce()
    asked = smart.ask(smart.register(), challenge)
    posted = smart.http.post(configuration(smart)["authorization_endpoint"], data=asked)
    url = f"{smart.url}{posted.headers['location']}"
    again = smart.http.get(url, headers=smart.cookie(dentist))
    assert again.status_code == 200 and "Allow" in again.text


def asymmetric(smart: SmartServer, dentist: Person) -> None:
    supported = configuration(smart)
    assert "private_key_jwt" in supported["token_endpoint_auth_methods_supported"]
    for kind in supported["token_endpoint_auth_signing_alg_values_supported"]:
        service = Service(smart, kind)
        assert service.ask(service.assertion()).status_code == 200


def encounter_context(smart: SmartServer, dentist: Person) -> None:
    from tests.integration.smart.test_launch_and_registration import encounter

    chosen, _ = smart.patient("Walked")
    visit = encounter(smart, chosen)
    started = start(smart, smart.cookie(dentist), patient=chosen, encounter=visit).json()
    body = smart.tokens(
        dentist, smart.register(), scope="launch patient/*.rs", launch=started["launch"]
    )
    assert body["encounter"] == visit


def renewed(scope: str) -> Walk:
    def walk(smart: SmartServer, dentist: Person) -> None:
        app = smart.register()
        body = smart.tokens(dentist, app, scope=f"user/Patient.rs {scope}")
        data = {"grant_type": "refresh_token", "refresh_token": body["refresh_token"]}
        assert scope in body["scope"].split()
        assert smart.token(data, app.auth).status_code == 200

    return walk


def permission(scope: str) -> Walk:
    def walk(smart: SmartServer, dentist: Person) -> None:
        body = standalone(smart, dentist, scope)
        assert scope in body["scope"].split()
        assert smart.read(body["access_token"], f"Patient/{body['patient']}").status_code == 200

    return walk


def banner(smart: SmartServer, dentist: Person) -> None:
    assert ehr(smart, dentist, need_patient_banner=True)["need_patient_banner"] is True
    assert ehr(smart, dentist, need_patient_banner=False)["need_patient_banner"] is False


def granular(smart: SmartServer, dentist: Person) -> None:
    scope = "patient/Observation.rs?category=laboratory"
    body = standalone(smart, dentist, f"{scope} patient/Patient.r")
    assert scope in body["scope"].split()
    assert smart.read(body["access_token"], "Observation").status_code == 200
    assert smart.read(body["access_token"], "Condition").status_code == 403


def sign_on(smart: SmartServer, dentist: Person) -> None:
    assert standalone(smart, dentist, "openid fhirUser")["id_token"].count(".") == 2


def imaging_app(smart: SmartServer, dentist: Person) -> None:
    patient, study = an_image(smart)
    body = smart.tokens(
        dentist,
        smart.register(),
        scope="launch/patient patient/ImagingStudy.rs patient/Endpoint.rs",
        patient=patient,
    )
    assert_images_readable(smart, body["access_token"], patient, study, is_service=False)


def imaging_service(smart: SmartServer, dentist: Person) -> None:
    patient, study = an_image(smart)
    service = Service(smart)
    asked = service.ask(service.assertion(), scope="system/ImagingStudy.rs system/Endpoint.rs")
    assert_images_readable(smart, asked.json()["access_token"], patient, study, is_service=True)


WALKS: dict[str, Walk] = {
    "launch-ehr": lambda smart, dentist: ehr(smart, dentist) and None,
    "launch-standalone": lambda smart, dentist: standalone(smart, dentist, "patient/*.rs") and None,
    "authorize-post": authorize_post,
    "client-public": lambda smart, dentist: (
        standalone(smart, dentist, "patient/*.rs", authentication="NONE") and None
    ),
    "client-confidential-symmetric": lambda smart, dentist: (
        standalone(smart, dentist, "patient/*.rs", authentication="CLIENT_SECRET") and None
    ),
    "client-confidential-asymmetric": asymmetric,
    "sso-openid-connect": sign_on,
    "context-banner": banner,
    "context-ehr-patient": lambda smart, dentist: ehr(smart, dentist) and None,
    "context-ehr-encounter": encounter_context,
    "context-standalone-patient": lambda smart, dentist: (
        standalone(smart, dentist, "patient/*.rs") and None
    ),
    "permission-offline": renewed("offline_access"),
    "permission-online": renewed("online_access"),
    "permission-patient": permission("patient/Patient.rs"),
    "permission-user": permission("user/Patient.rs"),
    "permission-v1": permission("patient/Patient.read"),
    "permission-v2": granular,
    "smart-imaging-access": imaging_app,
    f"{IMAGING}/app-launch": imaging_app,
    f"{IMAGING}/backend-services": imaging_service,
}


def test_exactly_the_capabilities_that_are_walked_are_said(smart: SmartServer) -> None:
    assert set(configuration(smart)["capabilities"]) == set(WALKS) == set(CAPABILITIES)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_capability_works(smart: SmartServer, dentist: Person, capability: str) -> None:
    WALKS[capability](smart, dentist)


# -- SMART Imaging Access -------------------------------------------------------------------


def an_image(smart: SmartServer) -> tuple[str, str]:
    """A stored image of a new patient: the patient's logical id and the Study Instance UID."""
    patient_id = generate_uid()[-12:]
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.PatientID, dataset.PatientName = patient_id, "Pixel^Pat"
    dataset.Modality, dataset.StudyDate = "IO", "20260314"
    dataset.Rows = dataset.Columns = 8
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = np.arange(64, dtype=np.uint8).tobytes()
    dataset["PixelData"].VR = "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with io.BytesIO() as buffer:
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
        part = buffer.getvalue()
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n--b--\r\n"
    stored = smart.http.post(
        f"{smart.base}/dicom-web/studies",
        content=body,
        headers={
            **smart.operator(),
            "Content-Type": 'multipart/related; type="application/dicom"; boundary=b',
        },
    )
    assert stored.status_code == 200, stored.text
    found = smart.http.get(
        f"{smart.fhir}/ImagingStudy",
        params={"identifier": f"urn:dicom:uid|urn:oid:{dataset.StudyInstanceUID}"},
        headers=smart.operator(),
    ).json()
    (entry,) = found["entry"]
    return entry["resource"]["subject"]["reference"].split("/")[-1], dataset.StudyInstanceUID


def assert_images_readable(
    smart: SmartServer, token: str, patient: str, study: str, *, is_service: bool
) -> None:
    """The whole of SMART Imaging Access with one token, and nobody else's images."""
    headers = {"Authorization": f"Bearer {token}"}
    _, other_study = an_image(smart)

    bundle = smart.http.get(
        f"{smart.fhir}/ImagingStudy",
        params={"patient": patient, "_include": "ImagingStudy:endpoint"},
        headers=headers,
    ).json()
    studies = [e["resource"] for e in bundle["entry"] if e["search"]["mode"] == "match"]
    endpoints = [e["resource"] for e in bundle["entry"] if e["search"]["mode"] == "include"]
    uids = [i["value"] for s in studies for i in s["identifier"] if i["system"] == "urn:dicom:uid"]
    assert uids == [f"urn:oid:{study}"]
    (endpoint,) = endpoints
    assert endpoint["connectionType"]["code"] == "dicom-wado-rs"
    assert {
        "url": "http://fhir.org/argonaut/smart-imaging/StructureDefinition/requires-access-token",
        "valueBoolean": True,
    } in endpoint["extension"]
    assert studies[0]["endpoint"][0]["reference"] == f"Endpoint/{endpoint['id']}"

    accept = {**headers, "Accept": 'multipart/related; type="application/dicom"'}
    pixels = smart.http.get(f"{endpoint['address']}/studies/{study}", headers=accept)
    assert pixels.status_code == 200 and bytes(range(64)) in pixels.content
    anonymous = smart.http.get(
        f"{endpoint['address']}/studies/{study}", headers={"Accept": accept["Accept"]}
    )
    assert anonymous.status_code == 401
    foreign = smart.http.get(f"{endpoint['address']}/studies/{other_study}", headers=accept)
    assert foreign.status_code == (200 if is_service else 404)
    # A scope for images is none for anything else.
    assert smart.http.get(f"{smart.fhir}/Observation", headers=headers).status_code == 403
