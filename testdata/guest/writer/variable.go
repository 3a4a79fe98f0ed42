package main

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const (
	variablesDir = "/sys/firmware/efi/efivars"
	variableGUID = "6f0a1d3e-53c1-4e0c-9d53-0f5a2f8b6c11" // of all it sets
	// Non-volatile, and there at boot and at run time (UEFI 8.2.1).
	variableAttributes = 1 | 2 | 4
)

// setVariable sets a new UEFI variable, and returns when it is in the flash memory.
func setVariable(name, value string) error {
	err := unix.Mount("efivarfs", variablesDir, "efivarfs", 0, "")
	if err != nil && !errors.Is(err, unix.EBUSY) { // mounted before
		return err
	}
	b := append(binary.LittleEndian.AppendUint32(nil, variableAttributes), value...)
	return os.WriteFile(variablesDir+"/"+name+"-"+variableGUID, b, 0o644) // one write is one variable
}
