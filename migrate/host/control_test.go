package host

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A panic in an answer is not swallowed: an agent that went on would keep its VM where
// it was.
func TestPanicEndsAgent(t *testing.T) {
	old := crash
	defer func() { crash = old }()
	var said any
	var where string
	crash = func(p any, stack []byte) { said, where = p, string(stack) }
	h := endsAgent(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("half way") }))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/vms/web1/start", nil))
	if said != "half way" || !strings.Contains(where, "TestPanicEndsAgent") {
		t.Errorf("got %v, from\n%s", said, where)
	}
}
