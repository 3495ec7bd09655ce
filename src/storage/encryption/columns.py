"""Which columns are sealed (data-schema.md XI), and the one place that does it to rows.

The list is data, as `storage.schema.presentation` is: `storage.schema` marks the columns from it
(`info["sealed"]`) and adds a CHECK that refuses clear text from whatever hand, and the lenses seal
and open by it without loading the models. AAD: tenant, table, column and row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from storage.encryption.vault import Vault

Row = dict[str, Any]

# What every sealed value begins with, and so does nothing else in a sealed column.
PREFIX = "sealed:"

# Identifier systems that are national or insurance numbers whatever type an identifier claims.
NATIONAL_ID_SYSTEMS = frozenset(
    {
        "http://hl7.org/fhir/sid/us-ssn",
        "urn:oid:2.16.840.1.113883.4.1",  # US social security number
        "https://fhir.nhs.uk/Id/nhs-number",
        "http://fhir.nl/fhir/NamingSystem/bsn",
        "urn:oid:1.2.250.1.213.1.4.8",  # French INS-NIR
        "urn:oid:1.2.250.1.213.1.4.9",
        "urn:oid:1.2.752.129.2.1.3.1",  # Swedish personnummer
        "urn:oid:2.16.840.1.113883.2.4.6.3",  # BSN
    }
)
INSURANCE_SYSTEMS = frozenset(
    {
        "http://hl7.org/fhir/sid/us-medicare",
        "http://hl7.org/fhir/sid/us-mbi",
        "http://fhir.de/sid/gkv/kvid-10",
        "http://fhir.de/NamingSystem/gkv/kvid-10",
        "http://ns.electronichealth.net.au/id/medicare-number",
    }
)
SEALED_SYSTEMS = NATIONAL_ID_SYSTEMS | INSURANCE_SYSTEMS


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """One sealed column. `kinds`: only rows whose column `kind` has one of these values.

    `index` is the column of its blind index, where it must be found by equality.
    """

    name: str
    index: str | None = None
    kind: str | None = None
    kinds: tuple[str, ...] = ()
    # A column that names the identifier system of the row.
    system: str | None = None
    # Of a table without tenants: sealed under a key of the platform.
    is_global: bool = False

    def check(self) -> str:
        """The condition that the database holds for it."""
        is_sealed = f"{self.name} LIKE '{PREFIX}%'"
        if self.kind is None:
            return is_sealed
        listed = ", ".join(f"'{value}'" for value in self.kinds)
        return f"{self.kind} NOT IN ({listed}) OR {is_sealed}"

    def applies(self, row: Mapping[str, Any]) -> bool:
        """Whether the value of this row is one to seal."""
        if self.kind is None:
            return True
        return row[self.kind] in self.kinds or (
            self.system is not None and row[self.system] in SEALED_SYSTEMS
        )


SEALED: Mapping[str, tuple[SealedColumn, ...]] = {
    "patient_identifiers": (
        SealedColumn(
            "value",
            index="value_index",
            kind="system",
            kinds=("NATIONAL_ID", "INSURANCE_MEMBER"),
            system="assigner",
        ),
    ),
    "patient_insurance_policies": (SealedColumn("policy_number", index="policy_number_index"),),
    "tenant_billing_accounts": (SealedColumn("payment_method_token_encrypted"),),
    "integration_credentials": (
        SealedColumn("secret_encrypted"),
        SealedColumn("refresh_token_encrypted"),
    ),
    "dicom_web_destinations": (SealedColumn("secret_encrypted"),),
    "webhook_subscriptions": (SealedColumn("secret_encrypted"),),
    "identity_providers": (SealedColumn("client_secret_encrypted"),),
    "tenants": (SealedColumn("database_url_encrypted", is_global=True),),
    "user_auth_identities": (
        SealedColumn("mfa_secret_encrypted", is_global=True),
        SealedColumn("mfa_pending_secret_encrypted", is_global=True),
    ),
}


def place(table: str, column: str, row: UUID | str) -> str:
    """What a value is bound to besides its tenant."""
    return f"{table}.{column}:{row}"


def seal_row(vault: Vault, tenant_id: UUID, table: str, row: Row, connection: Any = None) -> Row:
    """The row as it is written: sealed values sealed, their blind indexes beside them.

    It must have its `id`, and the columns that say whether a value is one to seal.
    """
    written = dict(row)
    for column in SEALED[table]:
        if column.name not in row:
            continue
        value = row[column.name]
        is_sealed = value is not None and column.applies(row)
        if is_sealed:
            where = place(table, column.name, row["id"])
            written[column.name] = vault.seal(tenant_id, where, value, connection)
        if column.index is not None:
            domain = f"{table}.{column.name}"
            written[column.index] = (
                vault.blind_index(tenant_id, domain, value, connection) if is_sealed else None
            )
    return written


def open_row(vault: Vault, tenant_id: UUID, table: str, row: Row, connection: Any = None) -> Row:
    """The row as it is read. It must have what `seal_row` needs."""
    read = dict(row)
    for column in SEALED[table]:
        value = row.get(column.name)
        if value is not None and column.applies(row) and value.startswith(PREFIX):
            where = place(table, column.name, row["id"])
            read[column.name] = vault.open(tenant_id, where, value, connection)
    return read


def needed_to_open(table: str) -> tuple[str, ...]:
    """The columns without which `open_row` and `seal_row` cannot tell what to do."""
    found = ["id"]
    for column in SEALED[table]:
        found += [name for name in (column.kind, column.system) if name is not None]
    return tuple(dict.fromkeys(found))
