package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/testdata/guest/stamp"
)

// Check verifies the disks of one guest from outside, by their locations: images of
// any format, local or on shares, that nobody writes to. records may be nil.
// The error tells what is wrong, or could not be read.
func Check(ctx context.Context, records stamp.Records, o smbstore.Options, disks ...smbstore.Location) (*stamp.Report, error) {
	var images []stamp.Image
	var closers []io.Closer
	defer func() {
		for _, c := range closers {
			c.Close()
		}
	}()
	for _, l := range disks {
		s, err := smbstore.Open(ctx, l.Dir(), o)
		if err != nil {
			return nil, err
		}
		closers = append([]io.Closer{s}, closers...)
		dev, _, err := smbstore.OpenDisk(ctx, s, l.Base(), smbstore.DiskOptions{ReadOnly: true})
		if err != nil {
			return nil, err
		}
		closers = append([]io.Closer{dev}, closers...)
		images = append(images, DeviceImage(ctx, l.String(), dev))
	}
	return CheckImages(ctx, records, images...)
}

// CheckImages is Check of disks that are open.
func CheckImages(ctx context.Context, records stamp.Records, images ...stamp.Image) (*stamp.Report, error) {
	r, err := stamp.Check(ctx, records, images...)
	if err != nil {
		return nil, err
	}
	return r, r.Err()
}

// CheckFiles is Check of local images.
func CheckFiles(ctx context.Context, records stamp.Records, paths ...string) (*stamp.Report, error) {
	var disks []smbstore.Location
	for _, p := range paths {
		l, err := smbstore.ParseLocation(p)
		if err != nil {
			return nil, err
		}
		disks = append(disks, l)
	}
	return Check(ctx, records, smbstore.Options{}, disks...)
}

// DeviceImage is a device as the checker takes it.
func DeviceImage(ctx context.Context, name string, dev block.Device) stamp.Image {
	return stamp.Image{Name: name, R: deviceReader{ctx, dev}, Size: dev.Size()}
}

type deviceReader struct {
	ctx context.Context
	dev block.Device
}

func (r deviceReader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.dev.ReadAt(r.ctx, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ReadRecords finds the FLUSHED lines in what a console said.
func ReadRecords(r io.Reader) (stamp.Records, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxTranscript+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxTranscript {
		return nil, errors.New("a transcript of more than 256 MiB")
	}
	c := NewConsole()
	for line := range strings.Lines(string(b)) {
		if i := strings.Index(line, "FLUSHED "); i >= 0 {
			c.note(Line{Text: strings.TrimSpace(line[i:])})
		}
	}
	if len(c.records) == 0 {
		return nil, fmt.Errorf("no FLUSHED lines")
	}
	return c.records, nil
}

const maxTranscript = 256 * mib
