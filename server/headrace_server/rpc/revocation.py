"""Client certificates that were withdrawn before their time, as their authority's lists say (CRL, RFC 5280).

Asked at each request and not at the handshake: gRPC's Python knows no lists, and a connection may stay open for days.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from headrace_server.errors import ModelRefused, Unauthenticated

LIST = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
# What the library raises for bytes that are no list; not all of them are ValueErrors, and of a name it is a TypeError.
BROKEN = (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
KNOWN_CERTIFICATES = 1024  # whose serial numbers are kept: reading one takes some 20 microseconds
Mark = tuple[bytes, int]  # the authority's name as DER, and the serial number that it gave
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Revoked:
    """What all lists together say."""

    marks: frozenset[Mark] = field(repr=False)
    expires: dict[str, float]  # by authority: when its list should be replaced, seconds since 1970; none: never

    def check(self, certificate: bytes) -> None:
        """`certificate`: DER or PEM. Raises Unauthenticated."""
        if _mark(certificate) in self.marks:
            raise Unauthenticated("the client certificate was revoked; ask its authority for a new one")


@lru_cache(KNOWN_CERTIFICATES)
def _mark(certificate: bytes) -> Mark:
    is_text = certificate.startswith(b"-----")
    found = (x509.load_pem_x509_certificate if is_text else x509.load_der_x509_certificate)(certificate)
    return found.issuer.public_bytes(), found.serial_number


def load_revoked(path: Path, authorities: Path) -> Revoked:
    """`authorities`: the file of --tls-client-ca. Raises ModelRefused; an expired list holds, and the log says so."""
    where = f"--tls-client-crl {path}"
    try:
        raw, trusted = path.read_bytes(), x509.load_pem_x509_certificates(authorities.read_bytes())
    except OSError as error:
        raise ModelRefused(f"{where}: {error.strerror}; name a PEM file that the server can read") from error
    except ValueError as broken:
        raise ModelRefused(f"{where}: --tls-client-ca {authorities} holds no certificate: {broken}") from broken
    lists = list(_lists(raw, where))
    try:
        for one in lists:
            _check_signature(one, trusted, where)
            _check_whole(one, where)
        return _told(lists, where)
    except BROKEN as broken:  # the library reads each part when it is asked for
        raise ModelRefused(f"{where}: is no certificate revocation list: {broken}") from broken


def _told(lists: list[x509.CertificateRevocationList], where: str) -> Revoked:
    ends = {one.issuer.rfc4514_string(): one.next_update_utc for one in lists if one.next_update_utc is not None}
    for authority, end in ends.items():
        if end < datetime.now(UTC):  # noqa: TID251 - compared with a date that the authority wrote
            log.warning("%s: %s should have sent a new one at %s; what it revokes stays revoked", where, authority, end)
    marks = frozenset((one.issuer.public_bytes(), entry.serial_number) for one in lists for entry in one)
    return Revoked(marks, {authority: end.timestamp() for authority, end in ends.items()})


def _lists(raw: bytes, where: str) -> Iterator[x509.CertificateRevocationList]:
    found = LIST.findall(raw)
    if not found:
        raise ModelRefused(f"{where}: holds no list; give PEM, `X509 CRL`, one list for each authority")
    for one in found:
        try:
            yield x509.load_pem_x509_crl(one)
        except BROKEN as broken:
            raise ModelRefused(f"{where}: is no certificate revocation list: {broken}") from broken


def _check_signature(one: x509.CertificateRevocationList, trusted: list[x509.Certificate], where: str) -> None:
    name = one.issuer.rfc4514_string()
    for authority in trusted:
        if authority.subject == one.issuer and _signed_by(one, authority):
            return
    raise ModelRefused(f"{where}: the list of {name!r} is signed by none of --tls-client-ca")


def _signed_by(one: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return one.is_signature_valid(authority.public_key())  # type: ignore[arg-type] # a TypeError says which are not
    except (InvalidSignature, UnsupportedAlgorithm, TypeError):
        return False


def _check_whole(one: x509.CertificateRevocationList, where: str) -> None:
    """A list that is a part of another, or speaks of others' certificates, would be read wrongly."""
    for extension in one.extensions:
        if isinstance(extension.value, x509.DeltaCRLIndicator):
            raise ModelRefused(f"{where}: holds a delta; give the complete list")
        if isinstance(extension.value, x509.IssuingDistributionPoint) and extension.value.indirect_crl:
            raise ModelRefused(f"{where}: is indirect, about certificates of others; give each authority's own list")
