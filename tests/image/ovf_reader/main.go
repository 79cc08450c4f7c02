// Reads an OVA as govc does, with VMware's own library for Go: the descriptor into the machine that
// vSphere would be asked to make, the manifest against the files. Prints what it found, as JSON.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/vmware/govmomi/ovf"
	"github.com/vmware/govmomi/ovf/importer"
	"github.com/vmware/govmomi/vapi/library"
	"github.com/vmware/govmomi/vim25/types"
)

type found struct {
	Name, Version string
	CPUs          int32
	MemoryMB      int64
	Devices       []string
	DiskBytes     int64
	Networks      []string
	Transport     []string
	Properties    []string
	Files         []string
}

func main() {
	told, err := read(os.Args[1])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(told)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func read(path string) (*found, error) {
	archive := &importer.TapeArchive{Path: path}
	text, err := importer.ReadOvf("*.ovf", archive)
	if err != nil {
		return nil, err
	}
	envelope, err := importer.ReadEnvelope(text)
	if err != nil {
		return nil, err
	}
	machine, err := envelope.ToConfigSpecWithOptions(ovf.ToConfigSpecOptions{Strict: true})
	if err != nil {
		return nil, err
	}
	told := &found{
		Name: machine.Name, Version: machine.Version,
		CPUs: machine.NumCPUs, MemoryMB: machine.MemoryMB,
	}
	for _, change := range machine.DeviceChange {
		device := change.GetVirtualDeviceConfigSpec().Device
		told.Devices = append(told.Devices, fmt.Sprintf("%T", device)[len("*types."):])
		if disk, is := device.(*types.VirtualDisk); is {
			told.DiskBytes = disk.CapacityInBytes
		}
	}
	for _, network := range envelope.Network.Networks {
		told.Networks = append(told.Networks, network.Name)
	}
	hardware := envelope.VirtualSystem.VirtualHardware[0]
	if hardware.Transport != nil {
		told.Transport = append(told.Transport, *hardware.Transport)
	}
	for _, product := range envelope.VirtualSystem.Product {
		for _, property := range product.Property {
			key := property.Key
			if product.Class != nil {
				key = *product.Class + "." + key
			}
			told.Properties = append(told.Properties, key)
		}
	}
	return told, compare(archive, told)
}

// compare holds every file that the manifest names against its checksum.
func compare(archive *importer.TapeArchive, told *found) error {
	manifest, _, err := archive.Open("*.mf")
	if err != nil {
		return err
	}
	defer manifest.Close()
	sums, err := library.ReadManifest(manifest)
	if err != nil {
		return err
	}
	for name, sum := range sums {
		file, _, err := archive.Open(name)
		if err != nil {
			return err
		}
		hash := sha256.New()
		_, err = io.Copy(hash, file)
		file.Close()
		if err != nil {
			return err
		}
		if sum.Algorithm != "SHA256" || hex.EncodeToString(hash.Sum(nil)) != sum.Checksum {
			return fmt.Errorf("%s is not what the manifest says", name)
		}
		told.Files = append(told.Files, name)
	}
	return nil
}
