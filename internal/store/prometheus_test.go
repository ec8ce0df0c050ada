package store

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/componenttest"
	"github.com/owca-project/owca/internal/hosttest"
)

func startPrometheus(t *testing.T, change func(*Prometheus)) *Prometheus {
	t.Helper()
	p := NewPrometheus()
	p.Listen = "127.0.0.1:0"
	if change != nil {
		change(p)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

type answer struct {
	code   int
	header http.Header
	body   []byte
}

// get asks for a path; headers are pairs of name and value.
func get(t *testing.T, p *Prometheus, path string, headers ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.Addr()+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	return do(t, http.DefaultClient, request)
}

func do(t *testing.T, client *http.Client, request *http.Request) answer {
	t.Helper()
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, body}
}

func store(t *testing.T, s owca.Storage, metrics []owca.Metric) {
	t.Helper()
	if err := s.Store(t.Context(), metrics); err != nil {
		t.Fatal(err)
	}
}

const acceptOpenMetrics = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"

func TestPrometheusConformance(t *testing.T) {
	t.Run("text", func(t *testing.T) {
		componenttest.Storage(t, func(t *testing.T) (owca.Storage, func() componenttest.Samples) {
			p := startPrometheus(t, nil)
			return p, func() componenttest.Samples {
				return samples(t, get(t, p, "/metrics").body, Text)
			}
		})
	})
	// OpenMetrics says the same.
	t.Run("openmetrics", func(t *testing.T) {
		p := startPrometheus(t, nil)
		metrics := few()
		store(t, p, metrics)
		open := get(t, p, "/metrics", "Accept", acceptOpenMetrics)
		if got := open.header.Get("Content-Type"); got != OpenMetrics.ContentType() {
			t.Errorf("content type %s", got)
		}
		got, want := samples(t, open.body, OpenMetrics), samples(t, get(t, p, "/metrics").body, Text)
		if len(got) != len(metrics) || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v, but in text %v", got, want)
		}
	})
}

// Every metric of the catalogue, as Prometheus' own linter sees the endpoint.
func TestPrometheusPromtool(t *testing.T) {
	hosttest.Need(t, "promtool")
	p := startPrometheus(t, nil)
	store(t, p, everything())
	body := get(t, p, "/metrics").body
	if n := len(samples(t, body, Text)); n != len(everything()) {
		t.Errorf("%d samples of %d", n, len(everything()))
	}
	check := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	check.Stdin = bytes.NewReader(body)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// A real Prometheus, which asks for OpenMetrics and gzip, gets every series.
func TestPrometheusScrapes(t *testing.T) {
	hosttest.Need(t, "prometheus")
	p := startPrometheus(t, nil)
	metrics := append(everything(), hostileMetrics()...)
	store(t, p, metrics)

	dir := t.TempDir()
	config := fmt.Sprintf("scrape_configs: [{job_name: owca, scrape_interval: 200ms, scrape_timeout: 200ms, static_configs: [{targets: [%q]}]}]\n", p.Addr())
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.CommandContext(t.Context(), "prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0", "--log.level=debug")
	listening := regexp.MustCompile(`"Listening on" address=(\S+)`)
	var log syncBuffer
	server.Stderr, server.Stdout = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	query := func(q string) string {
		address := listening.FindStringSubmatch(log.String())
		if address == nil {
			return ""
		}
		response, err := http.Get("http://" + address[1] + "/api/v1/query?query=" + url.QueryEscape(q))
		if err != nil {
			return ""
		}
		defer response.Body.Close()
		var answer struct {
			Data struct{ Result []struct{ Value [2]any } }
		}
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || len(answer.Data.Result) != 1 {
			return ""
		}
		return fmt.Sprint(answer.Data.Result[0].Value[1])
	}
	deadline := time.Now().Add(time.Minute)
	for query(`scrape_samples_scraped{job="owca"}`) == "" || query(`up{job="owca"}`) != "1" {
		if time.Now().After(deadline) {
			t.Fatalf("no scrape succeeds:\n%s", log.String())
		}
		time.Sleep(100 * time.Millisecond)
	}
	for q, want := range map[string]float64{
		`scrape_samples_scraped{job="owca"}`:                                float64(len(metrics)),
		`count({job="owca",__name__=~"owca_.*"})`:                           float64(len(metrics)),
		`owca_task_cpu_usage_seconds_total{job="owca",task_id="1"}`:         1e-9,
		`owca_task_memory_numa_bytes{job="owca",numa_node="0",task_id="0"}`: float64(slices.Index(owca.Catalogue(), owca.TaskMemoryNUMA)),
	} {
		if got, err := strconv.ParseFloat(query(q), 64); err != nil || got != want {
			t.Errorf("%s = %v, want %v; %v", q, got, want, err)
		}
	}
	if strings.Contains(log.String(), "Error on ingesting") || strings.Contains(log.String(), "Append failed") {
		t.Errorf("Prometheus complains:\n%s", log.String())
	}
}

// hostileMetrics are series that differ only in a hostile label value.
func hostileMetrics() []owca.Metric {
	var metrics []owca.Metric
	seen := make(map[string]bool)
	for i, value := range componenttest.HostileValues() {
		labels := owca.NewLabels(map[string]string{"hostile": value})
		if seen[labels.Text()] {
			continue
		}
		seen[labels.Text()] = true
		metrics = append(metrics, owca.Metric{Desc: owca.TaskUp, Labels: labels, Value: owca.Int(uint64(i))})
	}
	return metrics
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestPrometheusGzip(t *testing.T) {
	p := startPrometheus(t, nil)
	metrics := batch(20)
	store(t, p, metrics)
	plain := get(t, p, "/metrics", "Accept-Encoding", "gzip;q=0").body
	for range 3 {
		a := get(t, p, "/metrics", "Accept-Encoding", "deflate, gzip;q=0.9")
		if a.header.Get("Content-Encoding") != "gzip" {
			t.Fatal("not compressed")
		}
		r, err := gzip.NewReader(bytes.NewReader(a.body))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes, want %d; %v", len(got), len(plain), err)
		}
	}
}

func TestNegotiate(t *testing.T) {
	for accept, want := range map[string]Format{
		"":                             Text,
		"*/*":                          Text,
		"text/plain":                   Text,
		"text/html,*/*;q=0.1":          Text,
		"application/openmetrics-text": OpenMetrics,
		"application/openmetrics-text; version=2.0.0":  Text,
		"application/openmetrics-text;q=0.1,*/*;q=0.5": Text,
		"application/openmetrics-text;q=0,text/plain":  Text,
		"application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1":               OpenMetrics,
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0": OpenMetrics,
		"application/openmetrics-text;q=x": Text,
		";;,,;":                            Text,
	} {
		if got := negotiate(accept); got != want {
			t.Errorf("%q: %d, want %d", accept, got, want)
		}
	}
	for accept, want := range map[string]bool{"": false, "gzip": true, "br, GZIP": true, "gzip;q=0": false, "gzip; q=0.5": true, "*": false, "identity": false} {
		if got := acceptsGzip(accept); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add("application/openmetrics-text;version=1.0.0;q=0.8,*/*;q=0.1", "gzip;q=0.5, br")
	f.Fuzz(func(t *testing.T, accept, encoding string) {
		if negotiate(accept) == OpenMetrics && !strings.Contains(strings.ToLower(accept), "openmetrics") {
			t.Errorf("%q gets OpenMetrics", accept)
		}
		if acceptsGzip(encoding) && !strings.Contains(strings.ToLower(encoding), "gzip") {
			t.Errorf("%q gets gzip", encoding)
		}
	})
}

func TestPrometheusPaths(t *testing.T) {
	p := startPrometheus(t, nil)
	status := func(path string, want int, text string) {
		t.Helper()
		if a := get(t, p, path); a.code != want || !strings.Contains(string(a.body), text) {
			t.Errorf("%s: %d: %s", path, a.code, a.body)
		}
	}
	status("/healthz", 200, "ok")
	status("/readyz", 503, "first tick")
	status("/metrics", 503, "first tick")
	status("/", 200, "/metrics")
	status("/other", 404, "")
	store(t, p, few())
	status("/readyz", 200, "ok")
	status("/metrics", 200, "owca_up 1")
	for method, want := range map[string]int{http.MethodHead: 200, http.MethodPost: 405} {
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.Addr()+"/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if a := do(t, http.DefaultClient, request); a.code != want {
			t.Errorf("%s: %d", method, a.code)
		}
	}
}

func TestPrometheusStale(t *testing.T) {
	p := startPrometheus(t, nil)
	store(t, p, few())
	// As if there had been no tick for so long.
	p.mu.Lock()
	p.current.time = p.current.time.Add(-p.StaleAfter)
	p.mu.Unlock()
	for _, path := range []string{"/readyz", "/metrics"} {
		if a := get(t, p, path); a.code != 503 || !strings.Contains(string(a.body), "stale_after") {
			t.Errorf("%s: %d: %s", path, a.code, a.body)
		}
	}
	if a := get(t, p, "/healthz"); a.code != 200 {
		t.Errorf("/healthz: %d", a.code)
	}
	store(t, p, few())
	if a := get(t, p, "/readyz"); a.code != 200 {
		t.Errorf("/readyz: %d: %s", a.code, a.body)
	}
}

// A scrape sees one batch, whole, while others are stored.
func TestPrometheusScrapeWhileStoring(t *testing.T) {
	p := startPrometheus(t, func(p *Prometheus) { p.MaxConcurrentScrapes = 8 })
	const series = 2000
	metrics := make([]owca.Metric, series)
	labels := make([]*owca.Labels, series)
	for i := range labels {
		labels[i] = owca.NewLabels(map[string]string{"i": fmt.Sprint(i)})
	}
	fill := func(n uint64) {
		for i := range metrics {
			metrics[i] = owca.Metric{Desc: owca.AgentTicks, Labels: labels[i], Value: owca.Int(n)}
		}
	}
	fill(0)
	store(t, p, metrics)
	stop := make(chan struct{})
	var storing sync.WaitGroup
	storing.Go(func() {
		for n := uint64(1); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			fill(n)
			// An error: every copy is held by a scrape.
			if err := p.Store(context.Background(), metrics); err != nil && !strings.Contains(err.Error(), "slow scrapes") {
				t.Error(err)
			}
		}
	})
	var scraping sync.WaitGroup
	for range 4 {
		scraping.Go(func() {
			last := 0.0
			for range 10 {
				body, err := scrape(p)
				if err != nil {
					t.Error(err)
					return
				}
				got := samples(t, body, Text)
				first := got[componenttest.Series("owca_ticks_total", map[string]string{"i": "0"})]
				for series, v := range got {
					if v != first {
						t.Errorf("%s = %v beside %v", series, v, first)
						return
					}
				}
				if len(got) != series || first < last {
					t.Errorf("%d series of tick %v after tick %v", len(got), first, last)
				}
				last = first
			}
		})
	}
	scraping.Wait()
	close(stop)
	storing.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.scrapes != 0 || p.current.refs != 0 || p.held > 2 || p.held == 2 && p.spare == nil {
		t.Errorf("afterwards: %d scrapes, %d refs, %d held, spare %v", p.scrapes, p.current.refs, p.held, p.spare != nil)
	}
}

// scrape is get for goroutines.
func scrape(p *Prometheus) ([]byte, error) {
	response, err := http.Get("http://" + p.Addr() + "/metrics")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	return io.ReadAll(response.Body)
}

// stuck asks for metrics and does not read the answer.
func stuck(t *testing.T, p *Prometheus) {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if controlErr := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		}); controlErr != nil {
			return controlErr
		}
		return err
	}}
	conn, err := dialer.DialContext(t.Context(), "tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, p *Prometheus, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		done := ok()
		p.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func TestPrometheusStuckScrapers(t *testing.T) {
	p := startPrometheus(t, func(p *Prometheus) {
		p.MaxConcurrentScrapes, p.writeTimeout = maxSnapshots, 2*time.Second
	})
	// More than the buffers of a connection take.
	metrics := batch(500)
	for i := range maxSnapshots {
		store(t, p, metrics)
		stuck(t, p)
		waitFor(t, p, "a scrape runs", func() bool { return p.scrapes == i+1 })
	}
	// Each holds a snapshot of its own: there is no more, and Store says so.
	if err := p.Store(t.Context(), metrics); err == nil || !strings.Contains(err.Error(), "3 slow scrapes") {
		t.Errorf("%v", err)
	}
	if a := get(t, p, "/metrics"); a.code != 503 || !strings.Contains(string(a.body), "max_concurrent_scrapes") {
		t.Errorf("one more scrape: %d: %s", a.code, a.body)
	}
	waitFor(t, p, "they are cut off", func() bool { return p.scrapes == 0 })
	store(t, p, few())
	if a := get(t, p, "/metrics"); a.code != 200 || len(samples(t, a.body, Text)) != len(few()) {
		t.Errorf("afterwards: %d: %.200s", a.code, a.body)
	}
}

func TestPrometheusCloseCutsOffStuckScrapers(t *testing.T) {
	p := NewPrometheus()
	p.Listen, p.grace = "127.0.0.1:0", 50*time.Millisecond
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	store(t, p, batch(500))
	stuck(t, p)
	waitFor(t, p, "a scrape runs", func() bool { return p.scrapes == 1 })
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	waitFor(t, p, "the scrape has ended", func() bool { return p.scrapes == 0 })
	if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Close: %v", err)
	}
}

func TestPrometheusCannotListen(t *testing.T) {
	first := startPrometheus(t, nil)
	for address, want := range map[string]struct {
		is   error
		hint string
	}{
		first.Addr():       {syscall.EADDRINUSE, "set listen to a free address"},
		"192.0.2.1:0":      {syscall.EADDRNOTAVAIL, "no such address"},
		"127.0.0.1:x":      {nil, ""},
		"no.invalid:12345": {nil, ""},
	} {
		p := NewPrometheus()
		p.Listen = address
		err := p.Start(t.Context())
		if err == nil || want.is != nil && !errors.Is(err, want.is) || !strings.Contains(err.Error(), want.hint) || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v", address, err)
		}
		if err := p.Close(); err != nil {
			t.Errorf("%s: Close: %v", address, err)
		}
	}
	if err := listenError("127.0.0.1:80", syscall.EACCES); !strings.Contains(err.Error(), "CAP_NET_BIND_SERVICE") {
		t.Error(err)
	}
}

// certificate writes a key pair for 127.0.0.1 and returns the pool that trusts it.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "owca test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(parsed)
	return pool
}

func TestPrometheusTLSAndBasicAuth(t *testing.T) {
	dir := t.TempDir()
	pool := certificate(t, dir)
	// The password is bcrypt (cost 4) of "secret".
	config := "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n" +
		"basic_auth_users: {owca: $2a$04$sHaNdWLIh01Y4Ba1xzcbu.GJMYQ.5/Z9HOmJXmUq8wINSLycYRkjO}\n"
	file := filepath.Join(dir, "web.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startPrometheus(t, func(p *Prometheus) { p.WebConfigFile = file })
	store(t, p, few())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for password, want := range map[string]int{"secret": 200, "wrong": 401, "": 401} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+p.Addr()+"/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if password != "" {
			request.SetBasicAuth("owca", password)
		}
		if a := do(t, client, request); a.code != want || bytes.Contains(a.body, []byte("owca_up")) != (want == 200) {
			t.Errorf("password %q: %d", password, a.code)
		}
	}
	// Nothing without TLS.
	if a := get(t, p, "/metrics"); a.code != 400 || bytes.Contains(a.body, []byte("owca_up")) {
		t.Errorf("plain HTTP: %d", a.code)
	}

	for name, content := range map[string]string{"missing": "", "typo": "tls_server_confg: {}\n", "nocert": "tls_server_config: {cert_file: none.pem, key_file: key.pem}\n"} {
		bad := filepath.Join(dir, name)
		if content != "" {
			if err := os.WriteFile(bad, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p := NewPrometheus()
		p.Listen, p.WebConfigFile = "127.0.0.1:0", bad
		if err := p.Start(t.Context()); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPrometheusSaysWhatItCannotServe(t *testing.T) {
	p := startPrometheus(t, nil)
	bad := []owca.Metric{{Desc: owca.AgentUp, Value: owca.Int(1)}, {Desc: owca.AgentUp, Value: owca.Int(2)}}
	store(t, p, bad)
	// As long as it is so, not once per scrape: the log has one line.
	for range 2 {
		if a := get(t, p, "/metrics"); !bytes.Contains(a.body, []byte("owca_up 1\n")) {
			t.Errorf("the good one is not served: %s", a.body)
		}
		for range 2 {
			var rejected *RejectedError
			if err := p.Store(t.Context(), bad); !errors.As(err, &rejected) || rejected.Duplicate != 1 {
				t.Errorf("%v", err)
			}
		}
	}
	_ = p.Store(t.Context(), bad[:1])
	get(t, p, "/metrics")
	store(t, p, bad[:1])
}

func TestPrometheusStoreAllocatesNothing(t *testing.T) {
	p := startPrometheus(t, nil)
	ctx, metrics := t.Context(), batch(100)
	if n := testing.AllocsPerRun(20, func() {
		if err := p.Store(ctx, metrics); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	// With scrapes between, one does not allocate by the number of metrics.
	sc, s, err := p.begin()
	if err != nil {
		t.Fatal(err)
	}
	p.end(sc, s)
	e := NewEncoder(EncoderOptions{})
	sc.encoders[Text] = e
	if n := testing.AllocsPerRun(20, func() {
		sc, s, err := p.begin()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Store(ctx, metrics); err != nil {
			t.Fatal(err)
		}
		if err := sc.encoders[Text].Encode(io.Discard, s.metrics, s.time); err != nil {
			t.Fatal(err)
		}
		p.end(sc, s)
	}); n != 0 {
		t.Errorf("%v allocations with a scrape at the same time", n)
	}
}

// BenchmarkPrometheusStore is what a tick pays.
func BenchmarkPrometheusStore(b *testing.B) {
	p := NewPrometheus()
	ctx, metrics := context.Background(), batch(1000)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Store(ctx, metrics); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(metrics)), "ns/metric")
}

// BenchmarkPrometheusScrape is a whole scrape, client included.
func BenchmarkPrometheusScrape(b *testing.B) {
	for _, encoding := range []string{"identity", "gzip"} {
		b.Run(encoding, func(b *testing.B) {
			p := NewPrometheus()
			p.Listen = "127.0.0.1:0"
			if err := p.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			if err := p.Store(b.Context(), batch(1000)); err != nil {
				b.Fatal(err)
			}
			size := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+p.Addr()+"/metrics", http.NoBody)
				if err != nil {
					b.Fatal(err)
				}
				request.Header.Set("Accept-Encoding", encoding)
				response, err := http.DefaultClient.Do(request)
				if err != nil {
					b.Fatal(err)
				}
				if size, err = io.Copy(io.Discard, response.Body); err != nil {
					b.Fatal(err)
				}
				if err := response.Body.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(size), "B/scrape")
		})
	}
}
