package supervisor

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"vifproxy/control"
	"vifproxy/tinyproxy"
)

// Kind is one word of the daemon's vocabulary: a kind of event. Log lines, journal entries and the stream of
// `vifproxyctl watch` are all made from a Kind and a control.About, in Emit and nowhere else.
type Kind struct {
	Name  string // in the journal's field EVENT and in `watch --json`: scripts rely on it
	ID    string // MESSAGE_ID (systemd.journal-fields(7)): explained in packaging/vifproxy.catalog; never changes
	Level slog.Level
	Text  string
}

// vocabulary is all there is.
var vocabulary []*Kind

func kind(name, id string, level slog.Level, text string) *Kind {
	k := &Kind{name, id, level, text}
	vocabulary = append(vocabulary, k)
	return k
}

// The daemon itself.
var (
	DaemonStarts = kind("daemon-starts", "ce910503964148ab89a084225350796c", slog.LevelInfo, "vifproxyd starts")
	DaemonFails  = kind("daemon-fails", "de5a1c62020b4c038d75f5b266e1ba4f", slog.LevelError, "vifproxyd gives up")
	daemonStops  = kind("daemon-stops", "88ea375e00fb42a9996742a53d6ad400", slog.LevelInfo, "vifproxyd stops")
	Reloading    = kind("reloading", "9704fc67e71e47eb8ff0571221adc873", slog.LevelInfo, "reading everything again")
	deaf         = kind("deaf", "0bf49795ad6040f3b6be14158db9c6b6", slog.LevelError,
		"no events: looked at every 5 s instead")
	Vulnerable = kind("vulnerable", "ed9908ac23ba4f1fbd8bf6e21f78b71b", slog.LevelWarn, "tinyproxy has a known hole")
	leftovers  = kind("leftovers", "f759cce9252a47969f300381d9aa8cbb", slog.LevelWarn,
		"ended proxies that an earlier run had left")
	confined     = kind("confined", "c705392084b34c5a9a7450b3f0f93713", slog.LevelInfo, "proxies are confined")
	halfConfined = kind("half-confined", "fb61e58e175541749f222731d0cd1d62", slog.LevelWarn,
		"proxies are not fully confined")
	trouble = kind("trouble", "e0eb85c074f741aeb3f5fba50fe91d6e", slog.LevelError,
		"cannot go on with what changed: all stays as it was")
	fenceDown = kind("unfenced", "6d617560e90d484590ac9abfaff7a896", slog.LevelError,
		"the fence around proxies does not stand: all proxies end until it does")
	impaired = kind("impaired", "7f10c1dd73864498b1467219664f9608", slog.LevelError,
		"something does not work; AppVMs are served all the same")
	barred = kind("barred", "7ff9e10904954f9b8ecd42fa963f975f", slog.LevelWarn,
		"proxies may not leave by an interface: what AppVMs send is not forwarded there")
	notBarred = kind("not-barred", "e0a0143aac06481189b0aa84069fc6db", slog.LevelInfo, "proxies may leave by an interface again")
	recovered = kind("recovered", "d057cb6fb434480a84dcf3fb7c951c9e", slog.LevelInfo, "works again")
)

// AppVMs and their rule files.
var (
	connected     = kind("connected", "02308dd0ae3d4228873242217b0d3e67", slog.LevelInfo, "AppVM connected")
	disconnected  = kind("disconnected", "0cca183d8da2447cb13516e616a18a97", slog.LevelInfo, "AppVM disconnected")
	rulesFound    = kind("rules-found", "1ed8a3ff0d8d4224b87c4ec7fc7ee318", slog.LevelInfo, "rule file found")
	rulesRenamed  = kind("rules-renamed", "9f75be59d95e4dd98191aed5020084ce", slog.LevelInfo, "rule file renamed")
	rulesGone     = kind("rules-gone", "566c9867d8334c9cbbeb69bc5e81d55c", slog.LevelInfo, "rule file gone")
	rulesRefused  = kind("rules-refused", "9cc37e36fba043779e0e113a7fea80c1", slog.LevelError, "rules refused")
	rulesAccepted = kind("rules-accepted", "6dd6d34f8d0c45ba83417e2b1f079b8e", slog.LevelInfo, "rules accepted")
	rulesOdd      = kind("rules-odd", "ccc452e8544e4a6d8b303fe9b36c6853", slog.LevelWarn,
		"rule file can hardly mean this")
	rulesOddMore = kind("rules-odd-more", "8397f7c262a243f4a74f9f8969de79ea", slog.LevelWarn,
		"more mistakes in the rule file: see `vifproxyctl check`")
	blackList = kind("black-list", "449ddca7852d4f648652f60ede38a96f", slog.LevelWarn,
		"black list: the AppVM reaches all hosts but those in its rule file")
	appVMStopped = kind("stopped", "750cbbcbd4f64a9db72d03937efdd041", slog.LevelInfo, "AppVM stopped")
	appVMStarted = kind("started", "4da8bb6bb81f46349535491b4142185f", slog.LevelInfo, "AppVM started again")
	refused      = kind("refused", "92fa93ee45404cc780aaba9dcaf6dead", slog.LevelInfo, "refused host")
	unreached    = kind("unreached", "1eb1275eb9d4404988faecd0b2f07175", slog.LevelInfo, "host not reached")
	turnedAway   = kind("turned-away", "79960327a9ad43cf96cb4ccf7b4355ee", slog.LevelInfo,
		"the template lets no request of the AppVM in")
	clientsFull = kind("full", "3b4a561001ec49479f17b2b389e61e7e", slog.LevelInfo,
		"all connections that the AppVM may have are open")
	allowed       = kind("allowed", "f292835a6b484f0d8a8b09ba5ffe998f", slog.LevelInfo, "host allowed for a time")
	allowedNoMore = kind("allowed-no-more", "3625e0665b6d41d2bbcd67768b7f01a6", slog.LevelInfo,
		"host not allowed any more")
)

// Proxies.
var (
	proxyListens = kind("proxy-listens", "dea960c6d87448d3a416a4136958451c", slog.LevelInfo, "proxy listens")
	inForce      = kind("in-force", "b10c344bb9f2488fb21bdea30a1d1d53", slog.LevelInfo, "change in force")
	proxyRetires = kind("proxy-retires", "3233def1f8c14afd834946a018c7d0e6", slog.LevelInfo,
		"proxy finishes its connections")
	proxyEnds  = kind("proxy-ends", "aa71482c1a07469396b184c38f2f37ea", slog.LevelInfo, "proxy ends")
	proxyDied  = kind("proxy-died", "864e9e157508452d8fc943657ae28fb2", slog.LevelWarn, "proxy died")
	proxyFails = kind("proxy-fails", "9fee039b9bbb4e069d38d018333885c7", slog.LevelWarn, "proxy does not start")
	notShown   = kind("not-shown", "79ff3a72d588452895670ae00afb72ce", slog.LevelWarn,
		"cannot show which configuration serves")
	stillTracked = kind("still-tracked", "99f38234a61d4e2f950ebe8825f00a1b", slog.LevelWarn,
		"connections of a proxy that ended may still be tracked")
)

// Events tells what happens: to the log, to those who watch, and what is refused to a list as well. Its methods
// may be called from anywhere and wait for nobody but the log.
type Events struct {
	log *slog.Logger

	mu       sync.Mutex
	watchers map[*watcher]bool
	refusals refusals
	examine  func(tinyproxy.Denied) bool // see examiner; nil while there is none
}

// NewEvents writes its events to log.
func NewEvents(log *slog.Logger) *Events {
	return &Events{log: log, watchers: map[*watcher]bool{}, refusals: refusals{}}
}

// Emit tells of one event.
func (e *Events) Emit(k *Kind, about control.About) {
	attrs := append(about.Attrs(), slog.String("event", k.Name), slog.String("message_id", k.ID))
	e.log.LogAttrs(context.Background(), k.Level, k.Text, attrs...)
	event := control.Event{
		Time: time.Now(), Event: k.Name, Level: strings.ToLower(k.Level.String()), Text: k.Text, About: about,
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.watchers {
		w.tell(event)
	}
}

// Denied is told of every request that a proxy did not serve. What became of a connection is found out first, if somebody
// does that.
func (e *Events) Denied(d tinyproxy.Denied) {
	e.mu.Lock()
	examine := e.examine
	if d.Reason != tinyproxy.Connect || d.What != "" || examine != nil && !e.refusals.of(d.Addr).looks.AllowN(time.Now(), 1) {
		examine = nil
	}
	e.mu.Unlock()
	if examine == nil || !examine(d) {
		e.record(d)
	}
}

// kindOf returns the kind of event that a request is which was not served.
func kindOf(r tinyproxy.Reason) *Kind {
	switch r {
	case tinyproxy.Name, tinyproxy.Connect:
		return unreached
	case tinyproxy.Template:
		return turnedAway
	case tinyproxy.Full:
		return clientsFull
	}
	return refused
}

// examineBy has a function find out what became of connections. It reports whether it does, and calls record in the end.
func (e *Events) examineBy(examine func(tinyproxy.Denied) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.examine = examine
}

// record counts a request that was not served, and tells of it as often as one AppVM's share allows.
func (e *Events) record(d tinyproxy.Denied) {
	host := control.DeniedHost{Host: d.Host, Port: d.Port, Reason: string(d.Reason), What: d.What, Why: d.Why}
	e.mu.Lock()
	host, tell, hushed := e.refusals.of(d.Addr).add(host, time.Now())
	e.mu.Unlock()
	if tell {
		e.Emit(kindOf(d.Reason), control.About{VM: d.VM, IP: d.Addr, Host: host.Host, Port: host.Port, Reason: host.Reason,
			What: host.What, Why: host.Why, Browser: host.Browser, NotShown: hushed})
	}
}

// watchBacklog is how many events wait for a slow reader.
const watchBacklog = 256

// watcher is somebody who watches.
type watcher struct {
	names   []string // of the AppVMs to be told of; none: all
	waiting []control.Event
	missed  int
	wake    chan struct{} // capacity 1
}

// tell leaves an event for a watcher to read. The caller holds Events.mu.
func (w *watcher) tell(event control.Event) {
	if event.VM != "" && len(w.names) > 0 && !slices.Contains(w.names, event.VM) {
		return
	}
	if len(w.waiting) < watchBacklog && w.missed == 0 {
		w.waiting = append(w.waiting, event)
	} else {
		w.missed++
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch sends what happens from now on to the named AppVMs, or to all, and what concerns no AppVM in particular,
// until ctx ends or send fails. A send that takes its time delays nobody else: what comes meanwhile waits, within
// bounds, and what is beyond them is counted.
func (e *Events) Watch(ctx context.Context, names []string, send func(control.Event) error) error {
	w := &watcher{names: names, wake: make(chan struct{}, 1)}
	e.mu.Lock()
	e.watchers[w] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.watchers, w)
		e.mu.Unlock()
	}()
	err := send(control.Event{Time: time.Now(), Event: control.Watching, Level: "info", Text: "watching"})
	for err == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		}
		e.mu.Lock()
		events, missed := w.waiting, w.missed
		w.waiting, w.missed = nil, 0
		e.mu.Unlock()
		for _, event := range events {
			if err = send(event); err != nil {
				return err
			}
		}
		if missed > 0 {
			err = send(control.Event{
				Time: time.Now(), Event: control.Missed, Level: "warn", Text: "events missed",
				About: control.About{Count: missed},
			})
		}
	}
	return err
}
