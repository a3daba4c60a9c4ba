"""Who may speak to whom: one certificate authority, a certificate for each component, kubeconfig files."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path

from . import processes

# Nothing but what `-subj` and `-addext` say: the system's openssl.cnf would add extensions of its own.
_CONFIG = "[req]\ndistinguished_name = subject\n[subject]\n"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")


class Certificates:
    """A folder of NAME.key and NAME.crt files, signed by the authority in ca.key and ca.crt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self) -> None:
        self.folder.mkdir(mode=0o700)
        (self.folder / "openssl.cnf").write_text(_CONFIG)
        self._request("ca", "/CN=test-cluster", "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.crt"

    def issue(self, name: str, user: str, *, groups: Iterable[str] = (), addresses: Iterable[str] = ()) -> None:
        """A certificate for `user` as a client and, if it has `addresses` (IP:... or DNS:...), as a server."""
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        extensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]
        if names := ",".join(addresses):
            extensions += ["extendedKeyUsage=clientAuth,serverAuth", f"subjectAltName={names}"]
        else:
            extensions += ["extendedKeyUsage=clientAuth"]
        self._request(name, subject, *extensions, signer="ca")

    def write_kubeconfig(self, path: Path, name: str, server: str) -> None:
        """A kubeconfig that says `server` is the API server and `name`'s certificate is the user's."""

        def embedded(file: Path) -> str:
            return base64.b64encode(file.read_bytes()).decode()

        cluster = {"server": server, "certificate-authority-data": embedded(self.certificate("ca"))}
        user = {
            "client-certificate-data": embedded(self.certificate(name)),
            "client-key-data": embedded(self.key(name)),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))

    def _request(self, name: str, subject: str, *extensions: str, signer: str = "") -> None:
        signed_by = ("-CA", self.certificate(signer), "-CAkey", self.key(signer)) if signer else ()
        added = [argument for extension in extensions for argument in ("-addext", extension)]
        processes.run(
            ["openssl", "req", "-x509", "-config", self.folder / "openssl.cnf", *_NEW_KEY, "-subj", subject, *added,
             *signed_by, "-keyout", self.key(name), "-out", self.certificate(name)]
        )  # fmt: skip
