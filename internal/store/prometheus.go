package store

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/exporter-toolkit/web"

	"github.com/owca-project/owca"
)

// Prometheus serves the newest metrics over HTTP:
//
//	/metrics  in the Prometheus text format or OpenMetrics, as the client asks
//	/healthz  200 as long as the program answers
//	/readyz   200 when /metrics has something current to serve, else 503
//
// Metrics are rendered when they are asked for, straight to the client: the
// text of a batch is never held.
type Prometheus struct {
	Listen               string        `yaml:"listen" alias:"address" format:"hostport" help:"Address and port to listen on."`
	WebConfigFile        string        `yaml:"web_config_file" format:"path" help:"Web configuration file of Prometheus exporters: TLS and basic authentication, for all paths. null: neither."`
	Names                string        `yaml:"names" enum:"prometheus,original" help:"Names and units of metrics: this agent's, or those of the original where it had the metric."`
	StaleAfter           time.Duration `yaml:"stale_after" range:"0.1..86400" help:"Answer 503 rather than serve metrics that are older than this. The default is three times the longest interval."`
	MaxConcurrentScrapes int           `yaml:"max_concurrent_scrapes" range:"1..100" help:"Answer 503 to more clients than this at once; each costs about 2 MB."`

	// Set by tests before Start.
	writeTimeout time.Duration
	grace        time.Duration

	server *http.Server
	addr   string
	done   chan struct{} // closed when the server has ended

	mu       sync.Mutex
	current  *snapshot  // what new scrapes get
	spare    *snapshot  // held by nobody
	held     int        // snapshots that exist
	scrapers []*scraper // idle
	scrapes  int        // running
	rejected error      // what the last scrape could not write
	failed   error      // why the server has ended
}

// snapshot is a copy of a batch. It is not written to while refs > 0.
type snapshot struct {
	metrics []owca.Metric
	refs    int // scrapes that read it
	time    time.Time
}

// maxSnapshots bounds the copies that slow scrapes hold, the newest included.
const maxSnapshots = 3

// scraper is what a scrape needs, reused by later ones.
type scraper struct {
	encoders [2]*Encoder // by Format
	gzip     *gzip.Writer
}

// NewPrometheus returns a Prometheus with the defaults.
func NewPrometheus() *Prometheus {
	return &Prometheus{
		Listen:               "127.0.0.1:9179",
		Names:                prometheusNames,
		StaleAfter:           3 * time.Minute,
		MaxConcurrentScrapes: 4,
		writeTimeout:         30 * time.Second,
		grace:                3 * time.Second,
	}
}

// Start listens. An error that wraps syscall.EADDRINUSE says that the port is
// taken.
func (p *Prometheus) Start(ctx context.Context) error {
	if err := web.Validate(p.WebConfigFile); err != nil {
		return fmt.Errorf("prometheus storage: web_config_file %s: %w", p.WebConfigFile, err)
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", p.Listen)
	if err != nil {
		return listenError(p.Listen, err)
	}
	p.addr = l.Addr().String()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", p.serveMetrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		err := p.ready()
		p.mu.Unlock()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, landingPage) // fails if the client is gone
	})
	log := slog.With("component", "store")
	p.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      p.writeTimeout, // a client that does not read is cut off
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// Clients that break off or don't speak TLS are not our errors.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	p.done = make(chan struct{})
	log.Info("Listening on", "address", p.addr)
	go func() {
		defer close(p.done)
		socket := false
		err := web.Serve(l, p.server, &web.FlagConfig{WebConfigFile: &p.WebConfigFile, WebSystemdSocket: &socket}, slog.New(demoted{log.Handler()}))
		_ = l.Close() // the server has closed it, unless it never began
		if !errors.Is(err, http.ErrServerClosed) {
			p.mu.Lock()
			p.failed = fmt.Errorf("prometheus storage: %s is not served any more: %w", p.addr, err)
			p.mu.Unlock()
		}
	}()
	return nil
}

// demoted makes what is information to the exporter toolkit ("TLS is
// disabled.") a matter of debugging.
type demoted struct{ slog.Handler }

func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == slog.LevelInfo {
		r.Level = slog.LevelDebug
	}
	if !d.Enabled(ctx, r.Level) {
		return nil
	}
	return d.Handler.Handle(ctx, r)
}

func (d demoted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoted{d.Handler.WithAttrs(attrs)}
}

func (d demoted) WithGroup(name string) slog.Handler { return demoted{d.Handler.WithGroup(name)} }

func listenError(address string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = ": another program, or another owca, listens there; stop it or set listen to a free address (`ss -ltnp` shows who it is)"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = ": this host has no such address"
	case errors.Is(err, syscall.EACCES):
		hint = ": ports below 1024 need CAP_NET_BIND_SERVICE; set listen to a higher one"
	}
	return fmt.Errorf("prometheus storage: cannot listen on %s: %w%s", address, err, hint)
}

// Addr returns the address that is listened on, "" before Start.
func (p *Prometheus) Addr() string { return p.addr }

// Close ends the server; scrapes get a few seconds to finish.
func (p *Prometheus) Close() error {
	if p.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.grace)
	defer cancel()
	err := p.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = p.server.Close()
	}
	<-p.done
	return err
}

// NonBlocking says that Store only copies.
func (p *Prometheus) NonBlocking() {}

// Store copies the metrics for scrapes to come. It does not wait for those
// that run: they keep what they began with. If scrapes of older metrics hold
// every copy that may exist, the metrics are not served, which is an error. A
// [*RejectedError] says that the last scrape could not write all it had.
func (p *Prometheus) Store(ctx context.Context, metrics []owca.Metric) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return p.failed
	}
	if p.current == nil || p.current.refs > 0 {
		switch {
		case p.spare != nil:
			p.current, p.spare = p.spare, nil
		case p.held < maxSnapshots:
			p.current = &snapshot{}
			p.held++
		default:
			return fmt.Errorf("prometheus storage: %d metrics are not served: %d slow scrapes are still being sent older ones", len(metrics), p.scrapes)
		}
	}
	// Nobody else sees s: whoever wants to waits for p.mu.
	s := p.current
	before := len(s.metrics)
	s.metrics = append(s.metrics[:0], metrics...)
	if n := len(metrics); n < before {
		clear(s.metrics[n:before]) // labels that are gone
	}
	s.time = time.Now()
	return p.rejected
}

// ready says why there is nothing to serve. p.mu is held.
func (p *Prometheus) ready() error {
	if p.failed != nil {
		return p.failed
	}
	if p.current == nil {
		return errors.New("no metrics yet: the first tick is not done")
	}
	if age := time.Since(p.current.time); age > p.StaleAfter {
		return fmt.Errorf("the newest metrics are %s old, more than stale_after (%s): the agent is stuck, or its interval is longer",
			age.Round(time.Millisecond), p.StaleAfter)
	}
	return nil
}

// begin reserves a scraper and the newest snapshot; end gives them back.
func (p *Prometheus) begin() (*scraper, *snapshot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ready(); err != nil {
		return nil, nil, err
	}
	if p.scrapes >= p.MaxConcurrentScrapes {
		return nil, nil, fmt.Errorf("%d scrapes are running, which is max_concurrent_scrapes", p.scrapes)
	}
	p.scrapes++
	p.current.refs++
	// The one used last has seen these metrics last.
	if n := len(p.scrapers); n > 0 {
		s := p.scrapers[n-1]
		p.scrapers = p.scrapers[:n-1]
		return s, p.current, nil
	}
	return &scraper{}, p.current, nil
}

func (p *Prometheus) end(sc *scraper, s *snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scrapes--
	p.scrapers = append(p.scrapers, sc)
	if s.refs--; s.refs > 0 || s == p.current {
		return
	}
	if p.spare != nil {
		p.held--
		return
	}
	clear(s.metrics)
	s.metrics = s.metrics[:0]
	p.spare = s
}

func (p *Prometheus) serveMetrics(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	sc, s, err := p.begin()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer p.end(sc, s)

	format := negotiate(r.Header.Get("Accept"))
	h.Set("Content-Type", format.ContentType())
	h.Set("Vary", "Accept, Accept-Encoding")
	compressed := acceptsGzip(r.Header.Get("Accept-Encoding"))
	if compressed {
		h.Set("Content-Encoding", "gzip")
	}
	if r.Method == http.MethodHead {
		return
	}
	e := sc.encoders[format]
	if e == nil {
		e = NewEncoder(EncoderOptions{Format: format, OriginalNames: p.Names == originalNames})
		sc.encoders[format] = e
	}
	if compressed {
		err = sc.compress(w, func(w io.Writer) error { return e.Encode(w, s.metrics, s.time) })
	} else {
		err = e.Encode(w, s.metrics, s.time)
	}
	var rejected *RejectedError
	if err != nil && !errors.As(err, &rejected) {
		// The client is gone or too slow; or make it see that this is not all.
		panic(http.ErrAbortHandler)
	}
	p.mu.Lock()
	p.rejected = err
	p.mu.Unlock()
}

// compress lets encode write to w through gzip.
func (sc *scraper) compress(w io.Writer, encode func(io.Writer) error) error {
	if sc.gzip == nil {
		var err error
		// Metrics are repetitive: higher levels cost much time and save little.
		if sc.gzip, err = gzip.NewWriterLevel(w, gzip.BestSpeed); err != nil {
			return err
		}
	} else {
		sc.gzip.Reset(w)
	}
	err := encode(sc.gzip)
	var rejected *RejectedError
	if err != nil && !errors.As(err, &rejected) {
		return err
	}
	if closeErr := sc.gzip.Close(); closeErr != nil {
		return closeErr
	}
	return err
}

// negotiate chooses the format that an Accept header prefers; Text if it
// prefers none. What asks for versions we don't have gets Text.
func negotiate(accept string) Format {
	best, bestQ := Text, 0.0
	for element := range strings.SplitSeq(accept, ",") {
		mediaType, params, err := mime.ParseMediaType(element)
		if err != nil {
			continue
		}
		format := Text
		version := params["version"]
		switch mediaType {
		case "application/openmetrics-text":
			if version != "" && version != "1.0.0" && version != "0.0.1" {
				continue
			}
			format = OpenMetrics
		case "text/plain":
			if version != "" && version != "0.0.4" {
				continue
			}
		case "text/*", "*/*":
		default:
			continue
		}
		if q := quality(params["q"]); q > bestQ {
			best, bestQ = format, q
		}
	}
	return best
}

func acceptsGzip(acceptEncoding string) bool {
	for element := range strings.SplitSeq(acceptEncoding, ",") {
		coding, q, _ := strings.Cut(element, ";")
		if strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			return quality(strings.TrimPrefix(strings.TrimSpace(q), "q=")) > 0
		}
	}
	return false
}

// quality is the weight of an element of an Accept header: 1 if not given, 0
// if it makes no sense.
func quality(q string) float64 {
	if q == "" {
		return 1
	}
	f, err := strconv.ParseFloat(q, 64)
	if err != nil || !(f >= 0 && f <= 1) {
		return 0
	}
	return f
}

const landingPage = `<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>owca</title></head>
<body>
<h1>owca</h1>
<p>What the tasks of this host use, and how they suffer.</p>
<ul>
<li><a href="/metrics">/metrics</a>: for Prometheus; text or OpenMetrics</li>
<li><a href="/healthz">/healthz</a>: the agent is alive</li>
<li><a href="/readyz">/readyz</a>: the metrics are current</li>
</ul>
</body>
</html>
`
