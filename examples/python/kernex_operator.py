"""A service that integrates with Kernex as an operator: it lists devices, deploys and watches.

    python kernex_operator.py --server localhost:7443 --ca ca.pem --token-file admin.token devices
    python kernex_operator.py ... enrollment-token
    python kernex_operator.py ... push app.tar.gz
    python kernex_operator.py ... deploy app:1.0 edge-1 edge-2

Exits with 3 when a deployment failed, as kernexctl does.
"""

import argparse
import pathlib
import sys
import uuid

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).parent / "generated"))

from kernex.v1 import access_pb2, access_pb2_grpc  # noqa: E402
from kernex.v1 import bundle_pb2, bundle_pb2_grpc  # noqa: E402
from kernex.v1 import deployment_pb2, deployment_pb2_grpc  # noqa: E402
from kernex.v1 import device_pb2, device_pb2_grpc  # noqa: E402

CHUNK = 256 * 1024


def connect(server, ca_file, token_file):
    """A channel that trusts the server's own CA and carries the token with each call."""
    tls = grpc.ssl_channel_credentials(pathlib.Path(ca_file).read_bytes())
    token = grpc.access_token_call_credentials(pathlib.Path(token_file).read_text().strip())
    return grpc.secure_channel(server, grpc.composite_channel_credentials(tls, token))


def list_devices(channel):
    """Prints every device, page by page."""
    service = device_pb2_grpc.DeviceServiceStub(channel)
    page = ""
    while True:
        answer = service.ListDevices(device_pb2.ListDevicesRequest(page_size=100, page_token=page), timeout=30)
        for device in answer.devices:
            status = device_pb2.DeviceStatus.Name(device.status).removeprefix("DEVICE_STATUS_").lower()
            releases = ",".join(f"{release.name}:{release.version}" for release in device.releases)
            print(device.name, status, releases or "-")
        page = answer.next_page_token
        if not page:
            return


def create_enrollment_token(channel):
    """Prints the one string an agent needs to enrol."""
    service = access_pb2_grpc.AccessServiceStub(channel)
    request = access_pb2.CreateEnrollmentTokenRequest(uses=1, request_id=str(uuid.uuid4()))
    print(service.CreateEnrollmentToken(request, timeout=30).text)


def push(channel, path):
    """Uploads a bundle: first what it is, then its bytes."""

    def messages():
        begin = bundle_pb2.UploadBegin(size_bytes=path.stat().st_size)
        yield bundle_pb2.UploadBundleRequest(begin=begin)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield bundle_pb2.UploadBundleRequest(chunk=chunk)

    bundle = bundle_pb2_grpc.BundleServiceStub(channel).UploadBundle(messages()).bundle
    print(f"{bundle.name}:{bundle.version}")


def deploy(channel, bundle, devices):
    """Creates a deployment, watches it to its end, and returns whether it succeeded."""
    service = deployment_pb2_grpc.DeploymentServiceStub(channel)
    # The request id makes it safe to repeat this call when the answer got lost.
    request = deployment_pb2.CreateDeploymentRequest(
        bundle=bundle, device_names=devices, request_id=str(uuid.uuid4())
    )
    deployment = service.CreateDeployment(request, timeout=30).deployment
    print("deployment", deployment.id, flush=True)
    watch = service.WatchDeployment(deployment_pb2.WatchDeploymentRequest(deployment_id=deployment.id))
    for change in watch:
        deployment = change.deployment
        for target in change.targets:
            state = deployment_pb2.AttemptState.Name(target.state).removeprefix("ATTEMPT_STATE_").lower()
            print(target.device_name, state, target.message, flush=True)
    return deployment.result == deployment_pb2.DEPLOYMENT_RESULT_SUCCEEDED


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, help="HOST:PORT")
    parser.add_argument("--ca", required=True, help="the server's ca.pem")
    parser.add_argument("--token-file", required=True)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("devices")
    verbs.add_parser("enrollment-token")
    verb = verbs.add_parser("push")
    verb.add_argument("archive", type=pathlib.Path)
    verb = verbs.add_parser("deploy")
    verb.add_argument("bundle")
    verb.add_argument("devices", nargs="+")
    given = parser.parse_args()
    with connect(given.server, given.ca, given.token_file) as channel:
        if given.verb == "devices":
            list_devices(channel)
        elif given.verb == "enrollment-token":
            create_enrollment_token(channel)
        elif given.verb == "push":
            push(channel, given.archive)
        elif not deploy(channel, given.bundle, given.devices):
            sys.exit(3)


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
