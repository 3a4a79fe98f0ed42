package fs

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Disk is what the kernel knows of the block device below a file system, besides
// its sectors.
type Disk struct {
	Known         bool   // there is a device, and what follows is told of it
	Alignment     uint32 // bytes by which the disk's first logical sector is off a physical one
	Partition     uint64 // where on the disk the file system's partition begins, bytes
	NoSeekPenalty bool
	Trim          bool // it can be told what is not needed any more
}

// diskOf asks the kernel for a block device, or for the disk it is a partition of;
// sectors (in bytes, powers of two) of 512 and 4096 where there is none to ask about.
func diskOf(major, minor uint32) (logical, physical uint32, d Disk) {
	return readDisk(fmt.Sprintf("/sys/dev/block/%d:%d/", major, minor))
}

func readDisk(device string) (logical, physical uint32, d Disk) {
	for _, queue := range []string{device + "queue/", device + "../queue/"} {
		logical, okL := readSector(queue + "logical_block_size")
		physical, okP := readSector(queue + "physical_block_size")
		if !okL || !okP {
			continue
		}
		physical = max(logical, physical)
		alignment, ok := readNumber(queue + "../alignment_offset")
		if d.Known = ok; !ok { // negative where the device is misaligned beyond telling
			return logical, physical, d
		}
		d.Alignment = uint32(min(alignment, 1<<30))
		start, _ := readNumber(device + "start") // of a partition, in units of 512 bytes
		d.Partition = start * 512
		rotates, ok := readNumber(queue + "rotational")
		d.NoSeekPenalty = ok && rotates == 0
		discard, _ := readNumber(queue + "discard_max_bytes")
		d.Trim = discard > 0
		return logical, physical, d
	}
	return 512, 4096, Disk{}
}

func readNumber(path string) (uint64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

func readSector(path string) (uint32, bool) {
	n, ok := readNumber(path)
	return uint32(n), ok && n >= 512 && n <= 1<<20 && n&(n-1) == 0
}
