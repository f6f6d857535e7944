"""A device that speaks the agents' side of Kernex: it enrols, proves its key, holds a session and reports.

It downloads what it is told to deploy and checks its digest, but runs nothing. It keeps no journal on disk, so unlike
`kernex-agent` it promises nothing over a crash: it is here to show the protocol.

    python kernex_agent.py --server localhost:7443 --ca ca.pem --token-file FILE --name edge-1 --deployments 1
"""

import argparse
import base64
import hashlib
import ipaddress
import os
import pathlib
import platform
import queue
import select
import socket
import struct
import sys
import tempfile
import threading
import uuid

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from OpenSSL import SSL, crypto

sys.path.insert(0, str(pathlib.Path(__file__).parent / "generated"))

from kernex.v1 import agent_pb2, agent_pb2_grpc  # noqa: E402
from kernex.v1 import deployment_pb2, device_pb2  # noqa: E402

PROTOCOL_REVISION = 2


def transcript(*fields):
    """What is signed: each field preceded by its length, 32 bits, big-endian."""
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


class Key:
    """The device's RSA-4096 key."""

    def __init__(self):
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=4096)
        self.public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.digest = hashlib.sha256(self.public).digest()

    def sign(self, message):
        """RSASSA-PSS with SHA-256, MGF1 with SHA-256 and a 32-byte salt."""
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
        return self._key.sign(message, pss, hashes.SHA256())


class Token:
    """The text of an enrolment token: `kxe1.<token id>.<cluster id>.<CA pin>.<secret>`, each part base64url."""

    def __init__(self, text):
        kind, token, cluster, pin, self.secret = text.strip().split(".")
        if kind != "kxe1":
            raise ValueError("this is not an enrolment token")
        decode = lambda part: base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))  # noqa: E731
        self.id, self.cluster, self.pin = uuid.UUID(bytes=decode(token)), uuid.UUID(bytes=decode(cluster)), decode(pin)

    def check_ca(self, pem):
        """The CA has to be the one whose public key the token pins."""
        key = x509.load_pem_x509_certificate(pem).public_key()
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if hashlib.sha256(spki).digest() != self.pin:
            raise SystemExit("the CA is not the one the token was made for")


class Tunnel:
    """One TLS 1.3 connection to the server, which gRPC speaks through a socket in a folder of this user's own.

    gRPC's own TLS neither tells the exporter nor says when it connects again. When this connection ends, so does the tunnel.
    """

    def __init__(self, server, ca):
        host, port = server.rsplit(":", 1)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_alpn_protos([b"h2"])
        context.get_cert_store().add_cert(crypto.X509.from_cryptography(x509.load_pem_x509_certificate(ca)))
        context.set_verify(SSL.VERIFY_PEER, lambda connection, certificate, error, depth, fine: bool(fine))
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        # pyOpenSSL waits on its own account, which a socket with a timeout does not let it.
        self._socket.setblocking(True)
        self._tls = SSL.Connection(context, self._socket)
        self._tls.set_connect_state()
        self._tls.do_handshake()
        self._check(self._tls.get_peer_certificate().to_cryptography(), host)
        # RFC 9266: what both ends of this one connection know, and nobody between them.
        self.exporter = self._tls.export_keying_material(b"EXPORTER-Channel-Binding", 32)
        self._folder = tempfile.TemporaryDirectory()
        path = os.path.join(self._folder.name, "tunnel")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        threading.Thread(target=self._serve, daemon=True).start()
        self.target = "unix:" + path

    @staticmethod
    def _check(leaf, host):
        """The certificate has to be for servers, and for this one."""
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        try:
            known = ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
        except ValueError:
            known = host in names.get_values_for_type(x509.DNSName)
        if not known or x509.ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
            raise SystemExit(f"the server's certificate is not for {host}")

    def _serve(self):
        # The first caller is the only one: another connection would need another tunnel.
        caller, _ = self._listener.accept()
        self._listener.close()
        try:
            self._pump(caller)
        except (SSL.Error, OSError):
            pass
        caller.close()
        self._socket.close()

    def _pump(self, caller):
        for end in (caller, self._socket):
            end.setblocking(False)
        up, down = b"", b""
        while True:
            readable = ([self._socket] if len(down) < 1 << 20 else []) + ([caller] if len(up) < 1 << 20 else [])
            writable = ([self._socket] if up else []) + ([caller] if down else [])
            ready, _, _ = select.select(readable, writable, [])
            if caller in ready:
                piece = caller.recv(1 << 16)
                if not piece:
                    return
                up += piece
            try:
                while len(down) < 1 << 20:
                    down += self._tls.recv(1 << 16)
            except SSL.WantReadError:
                pass
            try:
                while up:
                    up = up[self._tls.send(up[: 1 << 14]) :]
            except (SSL.WantReadError, SSL.WantWriteError):
                pass
            try:
                while down:
                    down = down[caller.send(down) :]
            except BlockingIOError:
                pass


def inventory():
    return device_pb2.Inventory(
        os=platform.system().lower(),
        arch=platform.machine(),
        hostname=platform.node(),
        kernel=platform.release(),
        cpu_count=os.cpu_count() or 1,
    )


class Agent:
    """One device, enrolled."""

    def __init__(self, channel, exporter, key, token, name):
        self._service = agent_pb2_grpc.AgentServiceStub(channel)
        self._key = key
        self._exporter = exporter
        self._journal = uuid.uuid4()
        self._boot = str(uuid.uuid4())
        self._seq = 0
        self._outbox = queue.Queue()
        nonce = os.urandom(32)
        signed = transcript(b"kernex.v1.enroll", token.cluster.bytes, token.id.bytes, key.digest, nonce)
        answer = self._service.Enroll(
            agent_pb2.EnrollRequest(
                token_id=str(token.id),
                token_secret=token.secret,
                public_key=key.public,
                device_name=name,
                nonce=nonce,
                signature=key.sign(signed),
                inventory=inventory(),
            ),
            timeout=30,
        )
        self.device = uuid.UUID(answer.device_id)
        print("enrolled as", answer.device_name, flush=True)

    def _hello(self, challenge):
        # An agent that stays remembers what it has spoken with a server and refuses less; this one
        # comes once.
        if challenge.protocol_revision < PROTOCOL_REVISION:
            raise SystemExit("the server does not speak revision 2 of the protocol")
        nonce = os.urandom(32)
        body = agent_pb2.Hello(
            device_id=str(self.device),
            client_nonce=nonce,
            boot_id=self._boot,
            journal_id=str(self._journal),
            protocol_revision=PROTOCOL_REVISION,
            agent_version="python-example",
            inventory=inventory(),
        ).SerializeToString()
        signed = transcript(
            b"kernex.v2.session",
            uuid.UUID(challenge.cluster_id).bytes,
            challenge.server_nonce,
            nonce,
            self._exporter,
            self._key.digest,
            hashlib.sha256(body).digest(),
        )
        return agent_pb2.Hello(body=body, signature=self._key.sign(signed))

    def _say(self, **message):
        self._outbox.put(agent_pb2.DeviceSessionRequest(**message))

    def _report(self, attempt, **event):
        # `accepted` and `outcome` are numbered and acknowledged.
        self._seq += 1
        self._say(report=agent_pb2.Report(attempt=attempt, seq=self._seq, **event))
        return self._seq

    def _download(self, deploy, token):
        metadata = (("kernex-session-token", token), ("kernex-device-id", str(self.device)))
        digest = hashlib.sha256()
        request = agent_pb2.DownloadBundleRequest(digest=deploy.digest)
        for piece in self._service.DownloadBundle(request, metadata=metadata):
            digest.update(piece.chunk)
        return digest.hexdigest() == deploy.digest

    def _deploy(self, attempt, deploy, token):
        self._report(attempt, accepted=agent_pb2.Accepted())
        if self._download(deploy, token):
            outcome = agent_pb2.Outcome(
                state=deployment_pb2.ATTEMPT_STATE_SUCCEEDED,
                output_tail="the example ran nothing\n",
                active=device_pb2.ActiveRelease(name=deploy.name, version=deploy.version, digest=deploy.digest),
            )
        else:
            outcome = agent_pb2.Outcome(
                state=deployment_pb2.ATTEMPT_STATE_FAILED,
                reason=deployment_pb2.FAILURE_REASON_DIGEST_MISMATCH,
                message="the bytes are not the bundle's",
            )
        return self._report(attempt, outcome=outcome)

    def session(self, deployments):
        """Holds one session until the outcomes of this many deployments are acknowledged."""
        token, waiting = "", set()
        answers = self._service.DeviceSession(iter(self._outbox.get, None))
        for answer in answers:
            kind = answer.WhichOneof("message")
            if kind == "challenge":
                self._say(hello=self._hello(answer.challenge))
            elif kind == "welcome":
                token = answer.welcome.session_token
                self._say(ready=agent_pb2.Ready(epoch=answer.welcome.epoch))
                self._say(heartbeat=agent_pb2.Heartbeat(seq=1, vital_signs=device_pb2.VitalSigns()))
                print("session", answer.welcome.epoch, flush=True)
            elif kind == "command" and answer.command.WhichOneof("action") == "deploy":
                command = answer.command
                print("deploying", f"{command.deploy.name}:{command.deploy.version}", flush=True)
                waiting.add(self._deploy(command.attempt, command.deploy, token))
            elif kind == "ack" and answer.ack.seq in waiting:
                waiting.remove(answer.ack.seq)
                print("outcome", agent_pb2.Disposition.Name(answer.ack.disposition), flush=True)
                deployments -= 1
                if deployments == 0:
                    break
            elif kind == "drain":
                break
            elif kind == "command" or kind is None:
                # What is not known is answered, never ignored and never a reason to leave.
                attempt = answer.command.attempt if kind else None
                self._say(unsupported=agent_pb2.Unsupported(attempt=attempt, detail="the example only deploys"))
        self._outbox.put(None)
        answers.cancel()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, help="HOST:PORT")
    parser.add_argument("--ca", required=True, help="the server's ca.pem")
    # Everybody on the machine reads a command line.
    parser.add_argument("--token-file", required=True, help="what `kernexctl enrollment create -o name` printed")
    parser.add_argument("--name", required=True)
    parser.add_argument("--deployments", type=int, default=1, help="leave after this many")
    given = parser.parse_args()
    token = Token(pathlib.Path(given.token_file).read_text().strip())
    ca = pathlib.Path(given.ca).read_bytes()
    token.check_ca(ca)
    key = Key()
    tunnel = Tunnel(given.server, ca)
    # Calls name the server, not the tunnel.
    named = [("grpc.default_authority", given.server)]
    with grpc.insecure_channel(tunnel.target, options=named) as channel:
        Agent(channel, tunnel.exporter, key, token, given.name).session(given.deployments)


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
