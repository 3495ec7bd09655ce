"""A transaction: all of its entries, or none (R4 http.html#transaction).

Ids are given first, so that links between entries can be written anew in whatever order they
stand; what is referred to is written before what refers to it. Conditional references are resolved
when everything without one is stored, so that they find what the transaction itself has made.
Blocking: runs in a thread of its own, and has its GET entries answered by the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson

from interop.errors import BadRequest, MethodNotAllowed, PreconditionFailed
from interop.fhir import conditional, gate, json
from interop.fhir.audit_log import RESOURCE_TYPE as AUDIT_EVENT
from interop.fhir.bundling import links
from interop.fhir.bundling.dispatch import Reply, patch_in_binary, status_line
from interop.fhir.bundling.entries import Entry, RequestBundle, at_entry
from interop.fhir.lens import JsonObject
from interop.fhir.negotiation import MEDIA_TYPE
from interop.fhir.outcomes import informational
from interop.fhir.references import local_references
from interop.fhir.versions import Version, etag, instant
from interop.fhir.write_routes import patch_of
from interop.fhir.writing import Precondition, WriteSession, require_id

# What an entry that reads is answered on the transaction's connection.
Read = Callable[[WriteSession, Entry], Reply]
Key = tuple[str, str]


@dataclass(slots=True, eq=False)
class Write:
    """A POST or PUT whose id is known. `resource` None: something meets If-None-Exist already."""

    entry: Entry
    key: Key
    resource: JsonObject | None
    is_new: bool

    @property
    def reference(self) -> str:
        return "/".join(self.key)


class Transaction:
    """One attempt at the entries of a transaction, in the transaction of a session."""

    def __init__(
        self, session: WriteSession, bundle: RequestBundle, wanted: str | None, read: Read
    ) -> None:
        """`wanted`: what Prefer: return asks for."""
        self._session = session
        self._bundle = bundle
        self._wanted = wanted
        self._read = read
        self._answers: dict[int, JsonObject] = {}
        # What each fullUrl stands for, and each condition that has created something.
        self._links: dict[str, str] = {}
        self._full_urls = {entry.full_url for entry in bundle.entries if entry.full_url}
        self._conditions: dict[tuple[str, str], str] = {}
        self._found: dict[str, str] = {}
        self._changed: dict[Key, Entry] = {}

    def run(self) -> list[JsonObject]:
        """Process all entries; the answers in their order. Errors name the entry."""
        entries = self._bundle.in_order()
        self._judge(entries)
        self._delete([entry for entry in entries if entry.method == "DELETE"])
        self._lock_criteria(entries)
        writes = [
            self._placed(entry)
            for entry in entries
            if entry.method in ("POST", "PUT") and not entry.is_operation
        ]
        self._write([write for write in writes if write.resource is not None])
        for write in writes:
            if write.resource is None:
                with at_entry(write.entry):
                    version = self._session.existing(*write.key, "FHIR_READ")
                    self._answer(write.entry, version)
        for entry in entries:
            if entry.method == "PATCH":
                with at_entry(entry):
                    self._patch(entry)
        self._session.finish()
        for entry in entries:
            if entry.method in ("GET", "HEAD") or entry.is_operation:
                with at_entry(entry):
                    self._answers[entry.index] = self._read(self._session, entry).entry()
        return [self._answers[entry.index] for entry in self._bundle.entries]

    # -- before anything is done --------------------------------------------------------

    def _judge(self, entries: Iterable[Entry]) -> None:
        """Raise for whatever can be seen to be wrong without looking at what is stored."""
        for entry in entries:
            with at_entry(entry):
                if entry.is_operation:
                    if entry.method not in ("GET", "HEAD") and "$" in entry.path:
                        raise BadRequest("operations that POST go into a batch")
                elif entry.method not in ("GET", "HEAD"):
                    self._judge_write(entry)

    def _judge_write(self, entry: Entry) -> None:
        type_, id_ = entry.target()
        if type_ == AUDIT_EVENT:
            raise MethodNotAllowed("AuditEvent is made by the server and never changed")
        if entry.method == "POST" and id_:
            raise BadRequest("POST goes to the URL of a type, such as Patient")
        if entry.method != "POST" and not id_ and not entry.query:
            raise BadRequest(f"{entry.method} needs an id, or criteria such as ?identifier=...")
        if entry.method == "DELETE":
            return
        if entry.resource is None:
            raise BadRequest("the entry has no resource")
        if entry.method == "PATCH":
            return
        # The links between entries are no URLs yet.
        own_base, full_urls = self._session.own_base, self._full_urls
        readable = links.relink_narrative(
            entry.resource, lambda link: own_base if link in full_urls else None
        )
        gate.check(readable, type_)
        if entry.method == "PUT" and id_:
            require_id(entry.resource, type_, id_)

    # -- deletions ----------------------------------------------------------------------

    def _delete(self, entries: list[Entry]) -> None:
        named = [entry for entry in entries if entry.target()[1]]
        self._session.prefetch(entry.target() for entry in named)
        for entry in entries:
            with at_entry(entry):
                type_, id_ = entry.target()
                condition = _precondition(entry)
                if id_:
                    self._claim((type_, id_), entry)
                    version = self._session.delete(type_, id_, condition)
                    versions = [version] if version else []
                else:
                    versions = conditional.delete_where(
                        self._session, type_, entry.query, condition
                    )
                    for version in versions:
                        self._claim((type_, version.resource_id), entry)
                self._answers[entry.index] = _deletion(versions)
        self._session.flush()

    # -- ids ----------------------------------------------------------------------------

    def _lock_criteria(self, entries: Iterable[Entry]) -> None:
        """Have whoever creates by the same criteria wait; all at once and in one order."""
        named: list[tuple[str, str]] = []
        for entry in entries:
            with at_entry(entry):
                if entry.is_operation or entry.method not in ("POST", "PUT"):
                    continue
                type_, id_ = entry.target()
                if entry.method == "PUT" and not id_:
                    named.append((type_, entry.query))
                elif "ifNoneExist" in entry.conditions:
                    named.append((type_, entry.conditions["ifNoneExist"]))
        conditional.lock_criteria(self._session, named)

    def _placed(self, entry: Entry) -> Write:
        """Give a POST or PUT its id, and remember what links to it become."""
        with at_entry(entry):
            assert entry.resource is not None
            type_, id_ = entry.target()
            if entry.method == "POST":
                write = self._created(entry, type_)
            elif id_:
                write = Write(entry, (type_, id_), entry.resource, is_new=False)
            else:
                write = self._selected(entry, type_)
            if write.resource is not None:
                self._claim(write.key, entry)
            if entry.full_url:
                self._links[entry.full_url] = write.reference
        return write

    def _created(self, entry: Entry, type_: str) -> Write:
        new = Write(entry, (type_, str(uuid4())), entry.resource, is_new=True)
        query = entry.conditions.get("ifNoneExist")
        if query is None:
            return new
        # The same condition twice means the same resource.
        condition = (type_, conditional.normalized(query))
        known = self._conditions.get(condition)
        if known is None:
            known = conditional.the_one(self._session, type_, query)
        if known is None:
            self._conditions[condition] = new.key[1]
            return new
        return Write(entry, (type_, known), None, is_new=False)

    def _selected(self, entry: Entry, type_: str) -> Write:
        """A conditional update (http.html#cond-update)."""
        assert entry.resource is not None
        found = conditional.the_one(self._session, type_, entry.query)
        named = entry.resource.get("id")
        if found is None and named is None:
            _precondition(entry).check(None)
            return Write(entry, (type_, str(uuid4())), entry.resource, is_new=True)
        if found is None:
            entry.conditions.setdefault("ifNoneMatch", "*")
            return Write(entry, (type_, str(named)), entry.resource, is_new=False)
        if named not in (None, found):
            raise BadRequest(
                f"the criteria select {type_}/{found}, and the resource has the id {named!r}",
                expression=f"{type_}.id",
            )
        return Write(entry, (type_, found), entry.resource, is_new=False)

    def _claim(self, key: Key, entry: Entry) -> None:
        """Raise where two entries would change one resource (http.html#trules)."""
        other = self._changed.setdefault(key, entry)
        if other is not entry:
            raise BadRequest(
                f"{'/'.join(key)} is changed by Bundle.entry[{other.index}] too; a transaction"
                " changes each resource once"
            )

    # -- writes -------------------------------------------------------------------------

    def _write(self, writes: list[Write]) -> None:
        self._session.prefetch(write.key for write in writes if not write.is_new)
        at_once: list[Write] = []
        waiting: list[Write] = []
        for write in writes:
            write.resource = self._relinked(write.entry, write.resource or {})
            is_waiting = any(links.conditional_references(write.resource))
            (waiting if is_waiting else at_once).append(write)
        while True:
            for write in in_dependency_order(at_once, self._session.own_base):
                self._put(write)
            if not waiting:
                return
            at_once, waiting = self._resolved(waiting)

    def _resolved(self, waiting: list[Write]) -> tuple[list[Write], list[Write]]:
        """Those whose conditional references find one resource each, and those that must wait.

        Raises PreconditionFailed where waiting is of no use, for nothing else is to be written.
        """
        self._session.flush()
        ready: list[Write] = []
        left: list[tuple[Write, str]] = []
        for write in waiting:
            with at_entry(write.entry):
                resource = write.resource or {}
                missing = self._first_missing(resource)
                if missing is not None:
                    left.append((write, missing))
                    continue
                write.resource = links.relink(resource, self._found.get, self._session.own_base)
                ready.append(write)
        if not ready:
            with at_entry(left[0][0].entry):
                raise PreconditionFailed(
                    f"the conditional reference {left[0][1][:200]!r} finds no resource"
                )
        return ready, [write for write, _ in left]

    def _first_missing(self, resource: JsonObject) -> str | None:
        """The first conditional reference that finds nothing yet."""
        references = links.conditional_references(resource)
        return next((one for one in references if not self._finds(one)), None)

    def _finds(self, reference: str) -> bool:
        """Whether a conditional reference finds a resource. Raises PreconditionFailed for many."""
        if reference not in self._found:
            type_, query = links.split_conditional(reference) or ("", "")
            found = conditional.the_one(self._session, type_, query)
            if found is not None:
                self._found[reference] = f"{type_}/{found}"
        return reference in self._found

    def _put(self, write: Write) -> None:
        with at_entry(write.entry):
            assert write.resource is not None
            if write.is_new:
                version = self._session.create(write.resource, write.key[1])
            else:
                condition = _precondition(write.entry)
                version = self._session.update(write.key[1], write.resource, condition)
            self._answer(write.entry, version)

    def _patch(self, entry: Entry) -> None:
        assert entry.resource is not None
        type_, id_ = entry.target()
        if entry.resource.get("resourceType") == "Binary":
            change = patch_of(*patch_in_binary(entry, entry.resource))
        else:
            parameters = self._relinked(entry, entry.resource)
            change = patch_of(MEDIA_TYPE, json.dumps(parameters))
        condition = _precondition(entry)
        if not id_:
            found = conditional.the_one(self._session, type_, entry.query)
            if found is None:
                raise PreconditionFailed(f"no {type_} meets the criteria")
            id_ = found
        self._claim((type_, id_), entry)
        self._answer(entry, self._session.patch(type_, id_, change, condition))

    def _relinked(self, entry: Entry, resource: JsonObject) -> JsonObject:
        """The resource with its links to other entries replaced."""
        if not self._links:
            return resource
        base = links.base_of(entry.full_url)

        def replace(link: str) -> str | None:
            return self._links.get(link) or (self._links.get(base + link) if base else None)

        return links.relink(resource, replace, self._session.own_base)

    # -- answers ------------------------------------------------------------------------

    def _answer(self, entry: Entry, version: Version) -> None:
        status = 201 if version.is_new else 200
        url = f"{self._session.own_base}/{version.reference}/_history/{version.version}"
        response: dict[str, Any] = {
            "status": status_line(status),
            "location": url,
            "etag": etag(version.version),
            "lastModified": instant(version.last_updated),
        }
        if self._wanted == "OperationOutcome":
            done = "created" if version.is_new else "updated"
            text = f"{version.reference} version {version.version} was {done}"
            response["outcome"] = orjson.Fragment(informational(text))
        answer: JsonObject = {
            "fullUrl": f"{self._session.own_base}/{version.reference}",
            "response": response,
        }
        if self._wanted == "representation" and version.body is not None:
            answer["resource"] = orjson.Fragment(version.body)
        self._answers[entry.index] = answer


def _deletion(versions: list[Version]) -> JsonObject:
    response: JsonObject = {"status": status_line(204)}
    if len(versions) == 1:
        response["etag"] = etag(versions[0].version)
        response["lastModified"] = instant(versions[0].last_updated)
    return {"response": response}


def _precondition(entry: Entry) -> Precondition:
    return Precondition.of(entry.conditions.get("ifMatch"), entry.conditions.get("ifNoneMatch"))


def in_dependency_order(writes: list[Write], own_base: str) -> list[Write]:
    """What is referred to before what refers to it, else as given; circles begin anywhere."""
    by_reference = {write.reference: write for write in writes}
    targets = {
        write.reference: [
            reference
            for reference in local_references(write.resource, own_base)
            if reference in by_reference
        ]
        for write in writes
    }
    ordered: dict[str, Write] = {}
    entered: set[str] = set()
    for write in writes:
        todo = [write.reference]
        while todo:
            reference = todo[-1]
            if reference not in entered:
                entered.add(reference)
                todo += [one for one in reversed(targets[reference]) if one not in entered]
                continue
            todo.pop()
            ordered.setdefault(reference, by_reference[reference])
    return list(ordered.values())
