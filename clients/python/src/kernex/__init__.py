"""Talks to a Kernex control plane. The stubs are in `kernex.v1`; this makes the channel that they need.

    import kernex
    from kernex.v1 import device_pb2, device_pb2_grpc

    with kernex.connect("kernex.json") as channel:
        devices = device_pb2_grpc.DeviceServiceStub(channel)
        for page in kernex.pages(devices.ListDevices, device_pb2.ListDevicesRequest()):
            for device in page.devices:
                print(device.name)

The context file says where the control plane is, which one, and who calls. `kernexctl context export` writes it:

    {"server": "https://kernex.example:7443", "pin": "9f86d0...", "token": "..."}
"""

import hashlib
import ipaddress
import json
import pathlib
import select
import socket
import time
from urllib.parse import urlsplit

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto

__all__ = ["ContextError", "connect", "pages"]

# A connection that is not there by then is not coming.
LIMIT_SECONDS = 15


class ContextError(Exception):
    """The context file cannot be used, or the server is not the one it names."""


def connect(context_file):
    """A channel to the control plane of a context file, with its token on each call. Close it, or use `with`."""
    context = _read(context_file)
    url = urlsplit(context["server"])
    if url.scheme != "https" or not url.hostname:
        raise ContextError(f"`{context['server']}` is not an address like https://kernex.example:7443")
    host, port = url.hostname, url.port or 443
    ca = _pinned_ca(host, port, context["pin"])
    tls = grpc.ssl_channel_credentials(ca)
    token = grpc.access_token_call_credentials(context["token"])
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return grpc.secure_channel(target, grpc.composite_channel_credentials(tls, token))


def pages(call, request, timeout=30):
    """Every page of a list: calls again with the token of the next page until there is none."""
    asked = type(request)()
    asked.CopyFrom(request)
    while True:
        page = call(asked, timeout=timeout)
        yield page
        if not page.next_page_token:
            return
        asked.page_token = page.next_page_token


def _read(context_file):
    try:
        context = json.loads(pathlib.Path(context_file).read_text())
    except (OSError, ValueError) as error:
        raise ContextError(f"cannot read the context file {context_file}: {error}") from error
    for name in ("server", "pin", "token"):
        if not isinstance(context, dict) or not isinstance(context.get(name), str):
            raise ContextError(f"the context file {context_file} has no `{name}`")
    return context


def _pinned_ca(host, port, pin):
    """The CA that the server shows, if it is the one with this pin. gRPC then checks the server's own certificate."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_alpn_protos([b"h2"])
    deadline = time.monotonic() + LIMIT_SECONDS
    try:
        with socket.create_connection((host, port), timeout=LIMIT_SECONDS) as plain:
            plain.setblocking(False)
            tls = SSL.Connection(context, plain)
            if not _is_address(host):
                tls.set_tlsext_host_name(host.encode("idna"))
            tls.set_connect_state()
            while not _has_shaken_hands(tls):
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([plain], [], [], left)[0]:
                    raise TimeoutError("no answer in time")
            chain = tls.get_peer_cert_chain() or []
    except (OSError, SSL.Error) as error:
        raise ContextError(f"no TLS connection to {host}:{port}: {error!r}") from error
    for certificate in chain[-1:]:
        key = certificate.to_cryptography().public_key()
        key = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if hashlib.sha256(key).hexdigest() == pin.lower():
            return crypto.dump_certificate(crypto.FILETYPE_PEM, certificate)
    raise ContextError(f"the CA of {host}:{port} is not the one with the pin {pin}: this is another control plane")


def _has_shaken_hands(tls):
    try:
        tls.do_handshake()
    except SSL.WantReadError:
        return False
    return True


def _is_address(host):
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
