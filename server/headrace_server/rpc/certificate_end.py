"""When the certificates of a file end, for an alert before they do."""

import logging
from pathlib import Path

from cryptography import x509

log = logging.getLogger(__name__)


def first_end(path: Path) -> float | None:
    """Seconds since 1970 at which the first certificate of this PEM file ends. None, and a line in the log: unreadable.

    OpenSSL, which uses the file, takes certificates that break the rules; they are no reason to refuse it here.
    """
    try:
        return min(one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(path.read_bytes()))
    except ValueError as error:
        log.warning("%s: nobody can be warned of its end: %s", path, error)
        return None
