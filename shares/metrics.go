package shares

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"lunless/smbstore/smb2"
)

// metrics are the server's counters. Those of the data path are resolved once,
// so that counting a request allocates nothing.
type metrics struct {
	conns, sessions, trees, opens prometheus.Gauge
	refused, panics               prometheus.Counter
	read, written                 prometheus.Counter
	authFailures                  *prometheus.CounterVec
	requests                      *prometheus.CounterVec
	latency                       *prometheus.HistogramVec

	byCommand [smb2.NumCommands]commandMetrics
}

type commandMetrics struct {
	ok, warning, failed prometheus.Counter
	latency             prometheus.Observer
}

const namespace = "lunless"

func newMetrics() *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	}
	m := &metrics{
		conns:    gauge("connections", "Connections."),
		sessions: gauge("sessions", "Authenticated sessions."),
		trees:    gauge("tree_connects", "Tree connects."),
		opens:    gauge("opens", "Open files, folders and pipes."),
		refused:  counter("connections_refused_total", "Connections turned away at the limit."),
		panics:   counter("panics_total", "Connections ended by an error of the server's own."),
		read:     counter("read_bytes_total", "Bytes read by clients."),
		written:  counter("written_bytes_total", "Bytes written by clients."),
		authFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "auth_failures_total", Help: "Failed authentications."}, []string{"reason"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "requests_total", Help: "Requests answered, by command and class of status."},
			[]string{"command", "class"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "request_seconds", Help: "Time from taking up a request to its response.",
			Buckets: prometheus.ExponentialBuckets(4e-6, 4, 11)}, []string{"command"}),
	}
	for i := range m.byCommand {
		name := smb2.Command(i).String()
		m.byCommand[i] = commandMetrics{
			ok:      m.requests.WithLabelValues(name, "ok"),
			warning: m.requests.WithLabelValues(name, "warning"),
			failed:  m.requests.WithLabelValues(name, "error"),
			latency: m.latency.WithLabelValues(name),
		}
	}
	return m
}

func (m *metrics) register(reg prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{
		m.conns, m.sessions, m.trees, m.opens, m.refused, m.panics, m.read, m.written,
		m.authFailures, m.requests, m.latency,
	} {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}

var started = time.Now()

// clock is the time since the program started: half the price of time.Now.
func clock() time.Duration { return time.Since(started) }

// request counts a request that has been answered.
func (m *metrics) request(r *request) {
	if r.hdr.Command >= smb2.NumCommands {
		return
	}
	c := &m.byCommand[r.hdr.Command]
	if r.status == smb2.StatusPending {
		return // the final response counts
	}
	c.latency.Observe((clock() - r.started).Seconds())
	switch {
	case r.failed():
		c.failed.Inc()
	case r.status.IsWarning():
		c.warning.Inc()
	default:
		c.ok.Inc()
	}
}

func (m *metrics) authFailed(reason string) { m.authFailures.WithLabelValues(reason).Inc() }

// MetricsHandler serves the metrics of a gatherer, such as the registry given as
// Config.Registerer.
func MetricsHandler(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{})
}
