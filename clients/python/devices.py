"""Lists the devices of a control plane: python devices.py kernex.json"""

import sys

import kernex
from kernex.v1 import device_pb2, device_pb2_grpc

with kernex.connect(sys.argv[1]) as channel:
    devices = device_pb2_grpc.DeviceServiceStub(channel)
    for page in kernex.pages(devices.ListDevices, device_pb2.ListDevicesRequest()):
        for device in page.devices:
            print(device.name, device_pb2.DeviceStatus.Name(device.status).removeprefix("DEVICE_STATUS_").lower())
