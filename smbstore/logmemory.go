package smbstore

import (
	"math/bits"
	"sync"
)

// The memory of what files log of their writes, in sizes of powers of two from
// 4 KiB to 1 MiB, is used again: memory got anew costs more than the copying.
const (
	leastLogClass = 12
	mostLogClass  = 20
)

var logMemory [mostLogClass - leastLogClass + 1]sync.Pool // *[]byte of its size

// logCopy copies p, which is not empty. mem, if not nil, is for logFree, once nobody
// uses data any more.
func logCopy(p []byte) (data []byte, mem *[]byte) {
	class := max(bits.Len(uint(len(p)-1)), leastLogClass)
	if len(p) < 1<<(leastLogClass-1) || class > mostLogClass {
		return append([]byte(nil), p...), nil
	}
	mem, _ = logMemory[class-leastLogClass].Get().(*[]byte)
	if mem == nil {
		b := make([]byte, 1<<class)
		mem = &b
	}
	data = (*mem)[:len(p)]
	copy(data, p)
	return data, mem
}

// logFree takes memory of logCopy back; mem may be nil.
func logFree(mem *[]byte) {
	if mem != nil {
		logMemory[bits.Len(uint(len(*mem)-1))-leastLogClass].Put(mem)
	}
}
