#include "textflag.h"

// func flush(p unsafe.Pointer, n uintptr)
TEXT ·flush(SB), NOSPLIT, $0-16
	MOVD p+0(FP), R0
	MOVD n+8(FP), R1
	ADD  R0, R1
line:
	DC   CIVAC, R0 // Linux lets user mode do so (SCTLR_EL1.UCI)
	ADD  $64, R0
	CMP  R1, R0
	BLO  line
	DSB  $15
	RET
