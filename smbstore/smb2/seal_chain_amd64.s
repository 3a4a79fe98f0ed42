//go:build !purego

#include "textflag.h"

// func subWord(w uint32) uint32
TEXT ·subWord(SB), NOSPLIT, $0-12
	MOVL w+0(FP), AX
	SHLQ $32, AX
	MOVQ AX, X0
	AESKEYGENASSIST $0, X0, X1
	MOVQ X1, AX
	MOVL AX, ret+8(FP)
	RET

// Nine rounds of AES-128 on X0 with the keys in X1 to X9.
#define MIDDLE \
	AESENC X1, X0; \
	AESENC X2, X0; \
	AESENC X3, X0; \
	AESENC X4, X0; \
	AESENC X5, X0; \
	AESENC X6, X0; \
	AESENC X7, X0; \
	AESENC X8, X0; \
	AESENC X9, X0

// func macBlocks(keys *[60]uint32, x *[16]byte, p *byte, n int)
//
// The chain's latency is all there is to save: the next block and the first key
// are folded into the last round's key beforehand, so that ten instructions a
// block depend on each other and no more.
TEXT ·macBlocks(SB), NOSPLIT, $0-32
	MOVQ keys+0(FP), AX
	MOVQ x+8(FP), BX
	MOVQ p+16(FP), CX
	MOVQ n+24(FP), DX
	MOVOU 16(AX), X1
	MOVOU 32(AX), X2
	MOVOU 48(AX), X3
	MOVOU 64(AX), X4
	MOVOU 80(AX), X5
	MOVOU 96(AX), X6
	MOVOU 112(AX), X7
	MOVOU 128(AX), X8
	MOVOU 144(AX), X9
	MOVOU 160(AX), X10
	MOVOU (AX), X11
	MOVOU (BX), X0
	MOVOU (CX), X12
	PXOR X11, X0
	PXOR X12, X0
	PXOR X10, X11

macNext:
	ADDQ $16, CX
	DECQ DX
	JZ macLast
	MOVOU (CX), X12
	PXOR X11, X12
	MIDDLE
	AESENCLAST X12, X0
	JMP macNext

macLast:
	MIDDLE
	AESENCLAST X10, X0
	MOVOU X0, (BX)
	RET

// One round on the MAC chain, X0, and on the counter block, X1.
#define ROUND(off) \
	MOVOU off(AX), X2; \
	AESENC X2, X0; \
	AESENC X2, X1

// Rounds 1 to 9.
#define ROUNDS9 \
	ROUND(16); \
	ROUND(32); \
	ROUND(48); \
	ROUND(64); \
	ROUND(80); \
	ROUND(96); \
	ROUND(112); \
	ROUND(128); \
	ROUND(144)

// Rounds 10 to 13 of AES-256.
#define ROUNDS4 \
	ROUND(160); \
	ROUND(176); \
	ROUND(192); \
	ROUND(208)

// The counter, R9, one up, into the counter block X3; a copy of it in X1.
#define COUNT \
	INCL R9; \
	MOVL R9, R10; \
	BSWAPL R10; \
	PINSRD $3, R10, X3; \
	MOVOU X3, X1

// func ccmSealBlocks(keys *[60]uint32, rounds int, x, ctr *[16]byte, dst, src *byte, n int)
TEXT ·ccmSealBlocks(SB), NOSPLIT, $0-56
	MOVQ keys+0(FP), AX
	MOVQ rounds+8(FP), R8
	MOVQ x+16(FP), BX
	MOVQ ctr+24(FP), SI
	MOVQ dst+32(FP), DI
	MOVQ src+40(FP), CX
	MOVQ n+48(FP), DX
	MOVOU (BX), X0
	MOVOU (SI), X3
	MOVL 12(SI), R9
	BSWAPL R9

sealNext:
	COUNT
	MOVOU (CX), X4
	MOVOU (AX), X2
	PXOR X4, X0
	PXOR X2, X0
	PXOR X2, X1
	ROUNDS9
	MOVOU 160(AX), X2
	CMPQ R8, $10
	JEQ sealLast
	ROUNDS4
	MOVOU 224(AX), X2

sealLast:
	AESENCLAST X2, X0
	AESENCLAST X2, X1
	PXOR X4, X1
	MOVOU X1, (DI)
	ADDQ $16, CX
	ADDQ $16, DI
	DECQ DX
	JNZ sealNext
	MOVOU X0, (BX)
	MOVOU X3, (SI)
	RET

// func ccmOpenBlocks(keys *[60]uint32, rounds int, x, ctr *[16]byte, dst, src *byte, n int)
//
// The MAC of a block needs its plain text, hence its key stream: the counter mode
// runs one block ahead. The first time round, X0 takes part as X5 and is put back.
TEXT ·ccmOpenBlocks(SB), NOSPLIT, $0-56
	MOVQ keys+0(FP), AX
	MOVQ rounds+8(FP), R8
	MOVQ x+16(FP), BX
	MOVQ ctr+24(FP), SI
	MOVQ dst+32(FP), DI
	MOVQ src+40(FP), CX
	MOVQ n+48(FP), DX
	MOVOU (BX), X5
	MOVOU (SI), X3
	MOVL 12(SI), R9
	BSWAPL R9
	XORQ R11, R11

openNext:
	COUNT
	MOVOU (AX), X2
	PXOR X2, X0
	PXOR X2, X1
	ROUNDS9
	MOVOU 160(AX), X2
	CMPQ R8, $10
	JEQ openLast
	ROUNDS4
	MOVOU 224(AX), X2

openLast:
	AESENCLAST X2, X0
	AESENCLAST X2, X1
	TESTQ R11, R11
	JNZ openChained
	MOVQ $1, R11
	MOVOU X5, X0

openChained:
	TESTQ DX, DX
	JZ openDone
	MOVOU (CX), X4
	PXOR X1, X4
	MOVOU X4, (DI)
	PXOR X4, X0
	ADDQ $16, CX
	ADDQ $16, DI
	DECQ DX
	JMP openNext

openDone:
	DECL R9
	BSWAPL R9
	PINSRD $3, R9, X3
	MOVOU X0, (BX)
	MOVOU X3, (SI)
	RET
