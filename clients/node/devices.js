// Lists the devices of a control plane: node devices.js kernex.json
import { connect, pages } from 'kernex-client';

const kernex = await connect(process.argv[2]);
for await (const page of pages(kernex.DeviceService.listDevices)) {
  for (const device of page.devices) console.log(device.name, device.status.replace('DEVICE_STATUS_', '').toLowerCase());
}
kernex.close();
