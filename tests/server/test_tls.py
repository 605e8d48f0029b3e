"""TLS with a certificate that is made here: trusted by its authority alone, never in the clear."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fakes import NAMES, fake_model, flag
from served import connect, send_raw, served

import samclip
from samclip.errors import SamclipError, ServerError
from samclip.server.run import Server

Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def issue(name: str, issuer: Pair | None = None) -> Pair:
    """A certificate for `name` and 127.0.0.1, an authority's without an `issuer`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, signing_key = (subject, key) if issuer is None else (issuer[0].subject, issuer[1])
    now = datetime.now(timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    public = signing_key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(signing_key, hashes.SHA256()), key


def write(pair: Pair, folder: Path, stem: str) -> tuple[Path, Path]:
    """Write a certificate and its key as PEM."""
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    certificate.write_bytes(pair[0].public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key.write_bytes(
        pair[1].private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    )
    return certificate, key


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """PEM files: of an authority, of a server that it vouches for, and of a stranger."""
    folder = tmp_path_factory.mktemp("tls")
    authority = issue("authority")
    found = {}
    pairs = {"ca": authority, "server": issue("server", authority), "other": issue("other")}
    for stem, pair in pairs.items():
        found[stem], found[f"{stem}-key"] = write(pair, folder, stem)
    return found


@pytest.fixture(scope="module")
def secure(files: dict[str, Path]) -> Iterator[Server]:
    with (
        fake_model() as model,
        served(model, certificate=files["server"], key=files["server-key"]) as running,
    ):
        yield running


def test_a_client_that_knows_the_authority_is_answered(
    secure: Server, files: dict[str, Path]
) -> None:
    assert secure.address.startswith("https://127.0.0.1:")
    with (
        fake_model() as model,
        model.encode(flag()) as scene,
        samclip.Client(secure.address, verify=str(files["ca"])) as client,
        client.encode(flag()) as remote,
    ):
        assert remote.classify(NAMES).top(3) == scene.classify(NAMES).top(3)
    with samclip.Client(secure.address, verify=False) as anyone:
        assert anyone.describe()["models"]


@pytest.mark.parametrize("known", [None, "other"])
def test_a_client_that_does_not_know_it_sends_nothing(
    known: str | None, secure: Server, files: dict[str, Path]
) -> None:
    trust = True if known is None else str(files[known])
    with (
        samclip.Client(secure.address, verify=trust, retries=0) as client,
        pytest.raises(ServerError, match=r"(?i)certificate"),
    ):
        client.describe()


def test_old_versions_and_clear_text_are_refused(secure: Server, files: dict[str, Path]) -> None:
    context = ssl.create_default_context(cafile=str(files["ca"]))
    with (
        connect(secure.address) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        assert wrapped.version() in {"TLSv1.2", "TLSv1.3"}
    answer = send_raw(secure.address, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert b"200" not in answer
    with samclip.Client(secure.address, verify=str(files["ca"])) as client:
        assert client.describe()["models"]  # the server still answers


@pytest.mark.parametrize(
    ("certificate", "key"), [("server", "other-key"), ("server-key", "server"), ("server", "gone")]
)
def test_files_that_do_not_fit_are_refused_at_the_start(
    certificate: str, key: str, files: dict[str, Path], tmp_path: Path
) -> None:
    given = {**files, "gone": tmp_path / "gone.pem"}
    with (
        fake_model() as model,
        pytest.raises(SamclipError, match="TLS"),
        served(model, certificate=given[certificate], key=given[key]),
    ):
        pass
