package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"lunless/smbstore"
)

func newVM() *cobra.Command {
	return group("vm", "Keep virtual machines' homes on shares",
		`A VM's home is a folder with its configuration (Virtual Machines), its disks
(Virtual Hard Disks), its checkpoints (Snapshots) and a record of which host
owns it. Machines run on hosts: `+"`lunless host run`"+` makes this one a host.`,
		`  lunless vm import web1 --disk web1.raw --storage smb://hv@fs1/vms
  lunless vm list --storage smb://hv@fs1/vms
  lunless vm show smb://hv@fs1/vms/web1 --json`,
		vmCreate(), vmImport(), vmSet(), vmList(), vmShow(), vmStart(), vmStop(), vmSave(), vmConsole(), vmClaim(), vmCheckpoint(), vmRestore(), vmRemove())
}

// withStorage opens a storage location and calls do with it.
func withStorage(ctx context.Context, location string, o *smbstore.Options, do func(s smbstore.Store) error) (err error) {
	if location == "" {
		return usageError{fmt.Errorf("--storage is missing")}
	}
	l, err := smbstore.ParseLocation(location)
	if err != nil {
		return usageError{err}
	}
	s, err := smbstore.Open(ctx, l, *o)
	if err != nil {
		return err
	}
	defer closing(&err, s)
	return do(s)
}

// machineFlags are the properties of a new VM. Its firmware is "" where what is
// chosen without the flag is not known yet, and usual says.
func machineFlags(c *cobra.Command, firmwareIs, usual string) func() (smbstore.Config, error) {
	cpus := c.Flags().Int("cpus", 1, "virtual processors")
	memory := byteSize(1 << 30)
	c.Flags().Var(&memory, "memory", "RAM")
	firmware := c.Flags().String("firmware", firmwareIs, "uefi or bios"+usual)
	networks := c.Flags().StringArray("network", nil, "a network adapter: user (out through the host) or none; may be given more than once")
	machine := c.Flags().String("machine", "", "the hypervisor's machine type (default its newest when the VM first runs)")
	trouble, patience := troubleFlags(c)
	notes := c.Flags().String("notes", "", "anything worth remembering")
	return func() (smbstore.Config, error) {
		switch {
		case *cpus < 1:
			return smbstore.Config{}, usageError{fmt.Errorf("--cpus %d: a VM has at least one", *cpus)}
		case memory < 1<<20:
			return smbstore.Config{}, usageError{fmt.Errorf("--memory %d: a VM has at least 1 MiB", memory)}
		case *firmware != smbstore.UEFI && *firmware != smbstore.BIOS && (*firmware != "" || c.Flags().Changed("firmware")):
			return smbstore.Config{}, usageError{fmt.Errorf("no firmware %q: there are uefi and bios", *firmware)}
		}
		config := smbstore.Config{CPUs: *cpus, Memory: int64(memory), Firmware: *firmware, Notes: *notes, MachineType: *machine,
			StorageTrouble: *trouble, StoragePatience: int(patience.Seconds())}
		for i, n := range *networks {
			if n != "user" && n != "none" {
				return config, usageError{fmt.Errorf("no network %q: there are user and none", n)}
			}
			config.Networks = append(config.Networks, smbstore.Network{Name: fmt.Sprintf("net%d", i), Kind: n})
		}
		return config, checkTrouble(*trouble, *patience)
	}
}

// printHome says where a new home lies.
func printHome(c *cobra.Command, h *smbstore.Home) error {
	return show(c, map[string]any{"id": h.ID(), "location": h.Location()}, func(w io.Writer) { fmt.Fprintln(w, h.Location()) })
}

func vmCreate() *cobra.Command {
	c := &cobra.Command{Use: "create NAME", Short: "Make a VM with empty disks", Args: takes(1),
		Long: `Makes a VM's home with an empty dynamic VHDX, or several, and prints its location.
A --kernel is copied into the home, with its --initrd: the VM boots it on whatever
host it runs, without firmware.` + troubleText,
		Example: `  lunless vm create web1 --storage smb://hv@fs1/vms --disk-size 64G --cpus 2 --memory 4G --network user
  lunless vm create test --storage ./vms --disk-size 1G --kernel vmlinuz --initrd initrd.img --append console=ttyS0`}
	storage := c.Flags().String("storage", "", "location the home shall lie in (required)")
	diskSizes := byteSizes{sizes: []int64{64 << 30}}
	c.Flags().Var(&diskSizes, "disk-size", "virtual size of a disk; may be given more than once (default 64G)")
	kernel := c.Flags().String("kernel", "", "file of a Linux kernel to boot")
	initrd := c.Flags().String("initrd", "", "file of its initrd")
	appendix := c.Flags().String("append", "", "its command line")
	machine := machineFlags(c, smbstore.UEFI, "")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		config, err := machine()
		if err != nil {
			return err
		}
		for _, n := range diskSizes.sizes {
			if n < 1<<20 {
				return usageError{fmt.Errorf("--disk-size %d: a disk has at least 1 MiB", n)}
			}
		}
		with := smbstore.NewHome{Disks: diskSizes.sizes, Append: *appendix}
		closeFiles, err := bootFiles(&with, *kernel, *initrd)
		if err != nil {
			return err
		}
		defer closeFiles()
		return withStorage(c.Context(), *storage, store, func(s smbstore.Store) error {
			h, err := smbstore.CreateHomeWith(c.Context(), s, args[0], config, with)
			if err != nil {
				return err
			}
			return printHome(c, h)
		})
	}
	return c
}

// bootFiles opens the kernel and initrd of a new VM.
func bootFiles(with *smbstore.NewHome, kernel, initrd string) (closeFiles func(), err error) {
	var open []*os.File
	closeFiles = func() {
		for _, f := range open {
			f.Close()
		}
	}
	if kernel == "" {
		if initrd != "" || with.Append != "" {
			return nil, usageError{fmt.Errorf("--initrd and --append go with a --kernel")}
		}
		return closeFiles, nil
	}
	for _, file := range []struct {
		name string
		to   *io.Reader
	}{{kernel, &with.Kernel}, {initrd, &with.Initrd}} {
		if file.name == "" {
			continue
		}
		f, err := os.Open(file.name)
		if err != nil {
			closeFiles()
			return nil, err
		}
		open, *file.to = append(open, f), f
	}
	return closeFiles, nil
}

func vmImport() *cobra.Command {
	c := &cobra.Command{Use: "import NAME", Short: "Make a VM from a disk image", Args: takes(1),
		Long: `Makes a VM's home whose disk is a copy of an image (raw, VHD or VHDX, told by
its content) as a dynamic VHDX, and prints the home's location. The image is
not changed. The home appears whole or not at all.

The VM gets the firmware that boots the disk, unless --firmware is given: UEFI
where a GPT has an EFI system partition, as Hyper-V's generation 2 and most of
today's images have, a BIOS where there is boot code for one and an active
partition or a BIOS boot partition. What was chosen, and why, is told on
standard error.` + troubleText,
		Example: "  lunless vm import web1 --disk web1.raw --storage smb://hv@fs1/vms"}
	storage := c.Flags().String("storage", "", "location the home shall lie in (required)")
	image := c.Flags().String("disk", "", "location of the image (required)")
	var rate byteSize
	c.Flags().Var(&rate, "rate-limit", "bytes a second (default no limit)")
	machine := machineFlags(c, "", " (default what the disk's partition table says)")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if *image == "" {
			return usageError{fmt.Errorf("--disk is missing")}
		}
		l, err := smbstore.ParseLocation(*image)
		if err != nil {
			return usageError{err}
		}
		config, err := machine()
		if err != nil {
			return err
		}
		return withStorage(c.Context(), *storage, store, func(s smbstore.Store) error {
			bar := newProgress("importing "+args[0], size)
			h, err := smbstore.ImportHome(c.Context(), s, args[0], smbstore.ImportOptions{Image: l, ImageOptions: *store,
				Config: config, Convert: smbstore.ConvertOptions{Rate: int64(rate)},
				Chosen: func(firmware, why string) {
					fmt.Fprintf(c.ErrOrStderr(), "firmware %s: %s\n", firmware, why)
				},
				Progress: func(p smbstore.ConvertProgress) { bar.set(p.Done, p.Total) }})
			bar.done()
			if err != nil {
				return err
			}
			return printHome(c, h)
		})
	}
	return c
}

func vmList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the VMs of this host, or at a location", Args: takes(0),
		Long:    "Lists the homes at a --storage location; without, the VMs that the host agent has or finds.",
		Example: "  lunless vm list\n  lunless vm list --storage smb://hv@fs1/vms --json"}
	storage := c.Flags().String("storage", "", "location the homes lie in")
	agent := agentFlags(c)
	store := storeFlags(c)
	type row struct {
		Name     string            `json:"name"`
		Location smbstore.Location `json:"location"`
		ID       string            `json:"id,omitempty"`
		Disks    int               `json:"disks"`
		Owner    string            `json:"owner,omitempty"`
		Error    string            `json:"error,omitempty"`
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *storage == "" {
			return listVMs(c, agent)
		}
		return withStorage(c.Context(), *storage, store, func(s smbstore.Store) error {
			homes, err := smbstore.ListHomes(c.Context(), s)
			if err != nil {
				return err
			}
			rows := []row{}
			for _, h := range homes {
				r := row{Name: h.Name, Location: h.Location, ID: h.Config.ID, Disks: len(h.Config.Disks)}
				if h.Err != nil {
					r.Error = h.Err.Error()
				} else {
					r.Owner = h.Record.String()
				}
				rows = append(rows, r)
			}
			return show(c, rows, func(w io.Writer) {
				cells := [][]string{{"NAME", "ID", "DISKS", "OWNER"}}
				for _, r := range rows {
					owner := r.Owner
					if r.Error != "" {
						owner = "error: " + r.Error
					}
					cells = append(cells, []string{r.Name, r.ID, fmt.Sprint(r.Disks), owner})
				}
				table(w, cells)
			})
		})
	}
	return c
}

func vmShow() *cobra.Command {
	c := &cobra.Command{Use: "show VM", Short: "Show one VM", Args: takes(1),
		Long:    "Shows a VM of this host, by its name or GUID, as its agent knows it; or what a home holds, by its location.",
		Example: "  lunless vm show web1\n  lunless vm show smb://hv@fs1/vms/web1 --json"}
	agent := agentFlags(c)
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if !strings.ContainsAny(args[0], `/\`) {
			return showVM(c, agent, args[0])
		}
		l, err := smbstore.ParseLocation(args[0])
		if err != nil {
			return usageError{err}
		}
		h, err := smbstore.OpenHome(c.Context(), l, *store)
		if err != nil {
			return err
		}
		defer closing(&err, h)
		config, err := h.Config()
		if err != nil {
			return err
		}
		record, err := h.Record()
		if err != nil {
			return err
		}
		v := struct {
			Location smbstore.Location `json:"location"`
			Owner    smbstore.Record   `json:"owner"`
			Config   smbstore.Config   `json:"config"`
		}{h.Location(), record, config}
		return show(c, v, func(w io.Writer) {
			fmt.Fprintf(w, "name      %s\nid        %s\nlocation  %s\nowner     %s\ncpus      %d\nmemory    %s\n",
				config.Name, config.ID, h.Location(), record, config.CPUs, size(config.Memory))
			if k := config.Kernel; k != nil {
				fmt.Fprintf(w, "kernel    %s %s\n", k.Path, k.Append)
			} else {
				fmt.Fprintf(w, "firmware  %s\n", config.Firmware)
			}
			if config.StorageTrouble != "" || config.StoragePatience != 0 {
				fmt.Fprintf(w, "trouble   %s\n", troublePolicy(&config))
			}
			for _, d := range config.Disks {
				fmt.Fprintf(w, "disk      %s (%s, %s %d)\n", d.Path, d.Format, d.Controller, d.Slot)
			}
			for _, k := range config.Checkpoints {
				fmt.Fprintf(w, "checkpoint %s %s\n", k.ID, k.Name)
			}
			for _, u := range config.Unmerged {
				fmt.Fprintf(w, "unmerged  %s: of a removed checkpoint: the host merges it with what grows from it, once that is one image\n", u.Path)
			}
			for _, f := range config.Unfinished {
				fmt.Fprintf(w, "unfinished %s: an operation makes it, or was cut: the VM's next start removes what nothing needs\n", f)
			}
			if config.Notes != "" {
				fmt.Fprintln(w, "notes    ", strings.ReplaceAll(config.Notes, "\n", "\n          "))
			}
		})
	}
	return c
}

func vmRemove() *cobra.Command {
	c := &cobra.Command{Use: "remove HOME", Short: "Remove a VM with its disks", Args: takes(1),
		Long: `Removes a VM's home with all that is in it, for good. Refused unless this host
owns the VM, or it has moved away and this is what was left.`,
		Example: "  lunless vm remove smb://hv@fs1/vms/web1 --yes"}
	sure := c.Flags().Bool("yes", false, "remove without being asked (required: there is no way back)")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if !*sure {
			return usageError{fmt.Errorf("removing %s deletes its disks for good: say --yes", args[0])}
		}
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, name string) error {
			return smbstore.RemoveHome(c.Context(), s, name)
		})
	}
	return c
}
