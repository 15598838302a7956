"""A real OIDC provider for tests: a small HTTP server with real keys, which can rotate them and misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "similis"
# Slow to make, so one for all tests.
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig", **more}


class Issuer:
    """The provider at `url`. `private` are the keys that it names, by kid; `answer` replaces what it sends."""

    def __init__(self) -> None:
        self.private: dict[str, Any] = {"rsa": RSA_KEY, "ec": EC_KEY}
        self.about: dict[str, Any] = {}
        self.answer: Any = None  # (status, headers, body) or a callable of the handler, instead of the documents
        self.gate = threading.Event()  # while cleared, nothing is answered
        self.gate.set()
        self.asked: Counter[str] = Counter()
        self._serve(0)

    def _serve(self, port: int) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked[self.path] += 1
                issuer.gate.wait(20)
                if callable(issuer.answer):
                    issuer.answer(self)
                    return
                status, headers, body = issuer.answer or (200, {}, json.dumps(issuer.document(self.path)).encode())
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def start_again(self) -> None:
        self._serve(self.port)

    def document(self, path: str) -> dict[str, Any]:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.about}
        return {"keys": [public_jwk(key, kid) for kid, key in self.private.items()]}

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Good claims with some changed; one that is `...` is left out."""
        now = int(time.time())
        good = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "4711",
            "exp": now + 300,
            "nbf": now,
            "iat": now,
            "roles": ["similis-reader"],
        }
        return {name: value for name, value in {**good, **changed}.items() if value is not ...}

    def token(self, kid: str = "rsa", algorithm: str | None = None, *, key: Any = None, **changed: Any) -> str:
        algorithm = algorithm or {"rsa": "RS256", "ec": "ES256"}[kid]
        return jwt.encode(self.claims(**changed), key or self.private[kid], algorithm, headers={"kid": kid})
