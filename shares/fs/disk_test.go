package fs

import (
	"os"
	"path/filepath"
	"testing"
)

// What the kernel tells of disks, as its files have it.
func TestReadDisk(t *testing.T) {
	for name, tt := range map[string]struct {
		device, disk map[string]string // files of the device, and of the disk above a partition
		logical      uint32
		physical     uint32
		want         Disk
	}{
		"disk": {map[string]string{"queue/logical_block_size": "512", "queue/physical_block_size": "4096", "alignment_offset": "0",
			"queue/rotational": "0", "queue/discard_max_bytes": "1073741824"}, nil,
			512, 4096, Disk{Known: true, NoSeekPenalty: true, Trim: true}},
		"partition": {map[string]string{"alignment_offset": "512", "start": "63"},
			map[string]string{"queue/logical_block_size": "512", "queue/physical_block_size": "4096", "queue/rotational": "1", "queue/discard_max_bytes": "0",
				"alignment_offset": "3584"},
			512, 4096, Disk{Known: true, Alignment: 3584, Partition: 63 * 512}},
		"misaligned beyond telling": {map[string]string{"queue/logical_block_size": "4096", "queue/physical_block_size": "512", "alignment_offset": "-1"}, nil,
			4096, 4096, Disk{}},
		"no device":    {nil, nil, 512, 4096, Disk{}},
		"not a number": {map[string]string{"queue/logical_block_size": "500", "queue/physical_block_size": "x"}, nil, 512, 4096, Disk{}},
	} {
		root := filepath.Join(t.TempDir(), "disk")
		device := filepath.Join(root, "part")
		for dir, files := range map[string]map[string]string{device: tt.device, root: tt.disk} {
			for file, content := range files {
				path := filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.MkdirAll(device, 0o700); err != nil {
			t.Fatal(err)
		}
		if l, p, got := readDisk(device + "/"); l != tt.logical || p != tt.physical || got != tt.want {
			t.Errorf("%s: %d, %d, %+v; want %d, %d, %+v", name, l, p, got, tt.logical, tt.physical, tt.want)
		}
	}
}
