package run

import (
	"testing"

	"github.com/owca-project/owca/internal/hosttest"
)

func TestMain(m *testing.M) { hosttest.Main(m) }
