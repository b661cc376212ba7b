"""Certificate authorities of tests: what they sign is what a server or a client shows."""

import datetime
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

P_256, P_384 = ec.SECP256R1(), ec.SECP384R1()
YESTERDAY, TOMORROW = datetime.timedelta(days=-1), datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pair:
    certificate: Path
    key: Path


class Authority:
    def __init__(self, directory: Path, name: str = "authority", above: "Authority | None" = None) -> None:
        """`above`: who signs for it; None: itself."""
        self._directory = directory
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        signer = above or self
        certificate = (
            _builder(self._name, signer._name, self._key.public_key(), YESTERDAY, TOMORROW)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(signer._key, hashes.SHA256())
        )
        self.certificate = directory / f"{name}.crt"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def sign(
        self,
        file: str,
        *names: str,
        common_name: str | None = None,
        until: datetime.timedelta = TOMORROW,
        passphrase: bytes | None = None,
        curve: ec.EllipticCurve = P_256,
    ) -> Pair:
        """`names`: addresses, URIs or DNS names; `until` counts from now. Writes FILE.crt and FILE.key.

        `passphrase`: that the key is encrypted with. `curve`: that it is on.
        """
        key = ec.generate_private_key(curve)
        builder = _builder(_name(common_name), self._name, key.public_key(), 2 * YESTERDAY, until).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([*map(_general, names)]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pair = Pair(self._directory / f"{file}.crt", self._directory / f"{file}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        hidden: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            hidden = serialization.BestAvailableEncryption(passphrase)
        pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
        return pair

    def revoke(self, file: str, *revoked: Pair, until: datetime.timedelta = TOMORROW, name: str | None = None) -> Path:
        """Writes FILE.crl. `name`: of another authority, in whose place this one would speak."""
        now = datetime.datetime.now(datetime.UTC)  # noqa: TID251 - what the other side compares it with
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name if name is None else _name(name))
            .last_update(now + 2 * YESTERDAY)
            .next_update(now + until)
        )
        for pair in revoked:
            serial = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now + YESTERDAY).build()
            builder = builder.add_revoked_certificate(entry)
        path = self._directory / f"{file}.crl"
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


def _name(common_name: str | None) -> x509.Name:
    return x509.Name([] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    since: datetime.timedelta,
    until: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)  # noqa: TID251 - what the other side compares it with
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since)
        .not_valid_after(now + until)
    )
