"""The table of errors on the wire is complete."""

from headrace_server.errors import ModelRefused, ServerError
from headrace_server.rpc.status import STATUS


def test_every_error_that_can_reach_a_client_has_a_status() -> None:
    def family(error: type[ServerError]) -> set[type[ServerError]]:
        return {error}.union(*map(family, error.__subclasses__()))

    assert set(STATUS) == family(ServerError) - {ServerError, ModelRefused}  # a model is refused before a client comes
