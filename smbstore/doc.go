// Package smbstore is what a host keeps its virtual machines with: it opens a
// location (an SMB share, or a local folder), and holds VM homes in it with
// their disks, configuration and ownership record.
//
// The calls nest as the files do: ParseLocation and Open give a Store, a folder
// tree; Store.OpenFile gives a File, which every disk format in the packages
// below lies on; CreateHome, ImportHome and OpenHome give a Home in a Store, and
// OpenDisk a block.Device in a Home. Convert copies one Device into another.
package smbstore
