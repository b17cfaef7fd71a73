#include "textflag.h"

// func prefetch(l *line)
TEXT ·prefetch(SB), NOSPLIT, $0-8
	MOVD l+0(FP), R0
	PRFM (R0), PLDL1KEEP
	RET
