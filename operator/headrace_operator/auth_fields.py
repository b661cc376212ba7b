"""What a manifest may say of who may ask: names of Secrets, which the kubelet mounts and the operator never reads."""

from dataclasses import dataclass

from headrace_operator.errors import InvalidSpec
from headrace_operator.fields import Section


@dataclass(frozen=True, slots=True)
class SecretFile:
    secret: str  # name, in the deployment's own namespace
    key: str  # within its data


@dataclass(frozen=True, slots=True)
class Auth:
    api_keys: SecretFile | None = None  # of lines as `headrace key new` prints them
    tls: str | None = None  # a Secret of type kubernetes.io/tls
    client_ca: SecretFile | None = None  # every client has to show a certificate of it

    @property
    def authenticates(self) -> bool:
        return self.api_keys is not None or self.client_ca is not None


def auth(given: Section) -> Auth:
    """Raises InvalidSpec."""
    found = Auth(
        api_keys=_file(given, "apiKeys", "keys"),
        tls=given.part("tls").text("secretName") if given.has("tls") else None,
        client_ca=_file(given, "clientCA", "ca.crt"),
    )
    if found.client_ca is not None and found.tls is None:
        raise InvalidSpec(given.field("clientCA"), "must come with auth.tls: clients show certificates over TLS only")
    return found


def _file(given: Section, name: str, usual: str) -> SecretFile | None:
    if not given.has(name):
        return None
    part = given.part(name)
    return SecretFile(part.text("secretName"), part.text_if_given("key") or usual)
