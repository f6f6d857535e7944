// Lists the devices of a control plane: devices kernex.json
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"kernex"
	v1 "kernex/v1"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: devices kernex.json")
	}
	connection, err := kernex.Connect(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	devices := v1.NewDeviceServiceClient(connection)
	for request := (&v1.ListDevicesRequest{}); ; {
		page, err := devices.ListDevices(ctx, request)
		if err != nil {
			log.Fatal(err)
		}
		for _, device := range page.Devices {
			status := strings.TrimPrefix(device.Status.String(), "DEVICE_STATUS_")
			fmt.Println(device.Name, strings.ToLower(status))
		}
		if page.NextPageToken == "" {
			return
		}
		request.PageToken = page.NextPageToken
	}
}
