"""The router's certificate and the authorities of its replicas: files that change, told to Envoy and to our own calls.

Envoy reads a file again when it has another name, so each state of one gets a link of its own. No key is copied.
"""

import json
import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace_router.errors import BadArguments
from headrace_router.proxy.tls import Trusted
from headrace_router.settings import Trust
from headrace_router.values import Secured

OWN = "own"  # of the secrets, as Envoy knows them
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
State = tuple[tuple[int, int, int] | str, ...]  # of each file: inode, when it changed, size; or why there is none
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Secret:
    """One or two files that belong together."""

    name: str
    files: tuple[Path, ...]
    model: str | None = None  # whose replicas are trusted by it; None: it is our own
    state: State = ()
    version: int = 0
    is_refused: bool = False  # as the files are now; an older version holds

    @property
    def labels(self) -> tuple[str, str]:
        """Of the metrics: what the files are, and of which model."""
        return ("certificate", "") if self.model is None else ("replica_ca", self.model)


@dataclass(slots=True)
class Certificates:
    own: tuple[Path, Path] | None  # certificate and key; None: plain text
    trusts: Mapping[str, Trust]  # by model; one that is not there speaks plain text
    folder: Path  # ours; Envoy reads there
    secured: dict[str, Secured] = field(default_factory=dict)  # by model: for our own calls to its replicas
    secrets: list[Secret] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises BadArguments."""
        if self.own is not None:
            self.secrets.append(Secret(OWN, self.own))
        for number, (model, trust) in enumerate(self.trusts.items()):
            self.secrets.append(Secret(f"replicas-{number}", (trust.authority,), model))
        for secret in self.secrets:
            self._take(secret, _state(secret.files))

    @property
    def own_file(self) -> Path | None:
        """Where Envoy reads our certificate; None: there is none."""
        return next((self._file(secret) for secret in self.secrets if secret.name == OWN), None)

    @property
    def trusted(self) -> dict[str, Trusted]:
        """By model: what Envoy asks of its replicas."""
        return {
            secret.model: Trusted(secret.name, self._file(secret), self.trusts[secret.model].name)
            for secret in self.secrets
            if secret.model is not None
        }

    def look(self) -> None:
        """Takes what changed. What makes no sense changes nothing, and the log says so."""
        for secret in self.secrets:
            state = _state(secret.files)
            if state == secret.state:
                continue
            try:
                self._take(secret, state)
            except BadArguments as error:
                secret.is_refused = True
                log.warning("what was read before holds on: %s", error)
            else:
                secret.is_refused = False
                log.info("read again: %s", ", ".join(map(str, secret.files)))

    def _take(self, secret: Secret, state: State) -> None:
        """Raises BadArguments."""
        secret.state = state  # also where it is refused: it is said once
        for flag, file, told in zip(_flags(secret.model), secret.files, state, strict=True):
            if isinstance(told, str):
                raise BadArguments(f"{flag} {file} cannot be read: {told}")
        if secret.model is None:
            _server_context(*secret.files)
        else:
            context = _client_context(secret.files[0], secret.model)
            self.secured[secret.model] = Secured(context, self.trusts[secret.model].name)
        secret.version += 1
        links = [self.folder / f"{secret.name}-{secret.version}-{n}.pem" for n in range(len(secret.files))]
        for link, file in zip(links, secret.files, strict=True):
            link.symlink_to(file.absolute())
        fresh = self._file(secret).with_suffix(".new")
        fresh.write_text(json.dumps({"version_info": str(secret.version), "resources": [_resource(secret, links)]}))
        fresh.replace(self._file(secret))

    def _file(self, secret: Secret) -> Path:
        return self.folder / f"secret-{secret.name}.json"


def _resource(secret: Secret, links: Sequence[Path]) -> dict[str, object]:
    names = [{"filename": str(link)} for link in links]
    if secret.model is None:
        what: dict[str, object] = {"tls_certificate": {"certificate_chain": names[0], "private_key": names[1]}}
    else:
        what = {"validation_context": {"trusted_ca": names[0]}}
    return {"@type": SECRET, "name": secret.name, **what}


def _state(files: Sequence[Path]) -> State:
    return tuple(map(_of_file, files))


def _of_file(file: Path) -> tuple[int, int, int] | str:
    try:
        told = file.stat()
    except OSError as error:
        return error.strerror or str(error)
    return told.st_ino, told.st_mtime_ns, told.st_size


def _server_context(certificate: Path, key: Path) -> None:
    def passphrase() -> str:
        raise BadArguments(
            f"--tls-key {key} is encrypted, and nobody can be asked for its passphrase; give it in plain PEM"
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, passphrase)
    except (OSError, ssl.SSLError) as error:
        raise BadArguments(f"--tls-cert {certificate} and --tls-key {key} are no PEM pair: {error}") from error


def _flags(model: str | None) -> tuple[str, ...]:
    """That name the files of a secret."""
    if model is None:
        return "--tls-cert", "--tls-key"
    return (f"--replica-ca of model {model}:" if model else "--replica-ca",)


def _client_context(authority: Path, model: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        (flag,) = _flags(model)
        raise BadArguments(f"{flag} {authority} holds no certificate in PEM: {error}") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as Envoy does: who is named need not be a root
    return context
