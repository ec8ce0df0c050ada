#include "textflag.h"

// func flush(p unsafe.Pointer, n uintptr)
TEXT ·flush(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), AX
	MOVQ n+8(FP), CX
	ADDQ AX, CX
	MFENCE
line:
	CLFLUSH (AX)
	ADDQ $64, AX
	CMPQ AX, CX
	JCS  line
	MFENCE
	RET
