package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/firewall/backend"
	"vifproxy/firewall/forward"
	"vifproxy/firewall/nft"
	"vifproxy/firewall/switchboard/handover"
	"vifproxy/internal/backlog"
	"vifproxy/internal/capability"
	"vifproxy/internal/defaults"
	"vifproxy/internal/dom0"
	"vifproxy/internal/events"
	"vifproxy/internal/plan"
	"vifproxy/internal/proxies"
	"vifproxy/internal/sightings"
	"vifproxy/internal/sockdiag"
	"vifproxy/internal/uses"
	"vifproxy/names/wire"
	"vifproxy/netwatch"
	"vifproxy/rules"
	"vifproxy/supervisor"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
)

// run is the daemon's life, from nothing to nothing.
func run(o options, log *slog.Logger, backlog *backlog.Queue, emitter *events.Emitter) error {
	debug.SetGCPercent(collectAt)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	if err := capability.Keep(); err != nil { // the programs that the daemon runs need none
		return err
	}
	inherited := handover.Inherited()
	emitter.Emit(events.DaemonStarts, events.About{Version: defaults.Version(), PID: os.Getpid()})

	socket, release, err := o.claim()
	if err != nil {
		return err
	}
	defer release()

	d := parts{options: o, log: log, backlog: backlog, events: emitter, socket: socket}
	defer d.close()
	if err := d.open(ctx, inherited); err != nil {
		return err
	}
	d.read()
	s := supervisor.New(d.config(ctx))
	d.connect(s)
	d.keepRecords(ctx, s)
	d.watch(ctx, s)
	d.helpers.Go(func() { d.reload(ctx, s, hup) })
	err = s.Run(ctx)
	stop()
	d.awaitHelpers()
	return err
}

// helpersTimeout is how long the daemon's end waits for what goes on beside the loop. A watcher may wait for a file system that does not
// answer.
const helpersTimeout = 4 * time.Second

func (d *parts) awaitHelpers() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.helpers.Wait()
	}()
	select {
	case <-done:
	case <-time.After(helpersTimeout):
	}
}

// parts are what run wires together.
type parts struct {
	options
	log     *slog.Logger
	backlog *backlog.Queue
	events  *events.Emitter
	socket  *control.Listener

	alarm       *alarm
	way         *way
	users       *tinyproxy.Identities
	proxies     *proxies.Tinyproxies
	names       *names
	confinement control.Confinement
	systemd     *notifier
	ruleFiles   *rules.Reader
	lists       *dom0.Source // that dom0 has decided; nil if they do not count
	sightings   *sightings.Book
	uses        *uses.Book // of the lines of lists
	chains      *forward.Reader

	unreadSightings, unreadUses error // why the records of an earlier run cannot be read

	binary   tinyproxy.Binary // as last seen
	programs tinyproxy.Finder
	places   confine.Places
	silent   error              // why it is not known where pages are
	unknown  func(error)        // tells the supervisor that
	owned    func(e wire.Event) // tells the supervisor
	closers  []func()           // in the order in which they were opened
	helpers  sync.WaitGroup     // goroutines beside the loop
}

// open opens the parts. First all is closed, then cleaned: no binding is left when the processes of an earlier run are ended, and the
// fence is there before any proxy. If open fails, close closes the parts that it has opened.
func (d *parts) open(ctx context.Context, inherited []*os.File) (err error) {
	if d.alarm, err = newAlarm(); err != nil {
		return err
	}
	fw, err := backend.Open(ctx, d.log, d.firewall, d.ports())
	if err != nil {
		return err
	}
	if err := proxies.EndLeft(ctx, d.events); err != nil {
		return err // the fence stays around them
	}
	sandbox, confinement, err := proxies.Confine(d.events, d.requireConfinement)
	if err != nil {
		return errors.Join(err, fw.Remove(context.WithoutCancel(ctx)))
	}
	d.confinement = confinement
	if d.way, err = choose(ctx, d.log, d.options, fw, sandbox.Group(), inherited); err != nil {
		sandbox.Close()
		return err
	}
	d.closers = append(d.closers, d.way.close)
	fw = d.way.firewall
	d.users = new(tinyproxy.Identities)
	d.proxies, err = proxies.Launch(ctx, d.events, proxies.Options{
		Binary: d.tinyproxy, RuntimeDir: d.runtimeDir, CompatDir: d.compatDir, Users: d.users, Sandbox: sandbox, Egress: d.egress,
		Switchboard: d.way.launch(), Prompt: d.way.kernel != nil,
	})
	if err != nil {
		sandbox.Close()
		return errors.Join(err, fw.Remove(context.WithoutCancel(ctx)))
	}
	d.closers = append(d.closers, d.proxies.Close)
	d.names, err = startNames(ctx, sandbox, confinement, fw, d.proxies, d.events, func(e wire.Event) { d.owned(e) })
	if err != nil {
		return errors.Join(err, fw.Remove(context.WithoutCancel(ctx)))
	}
	d.closers = append(d.closers, d.names.Stop)
	d.systemd = newNotifier(toSystemd)
	d.closers = append(d.closers, func() { d.systemd.close(lastWords) })
	return nil
}

// close closes the parts, the last one first.
func (d *parts) close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		d.closers[i]()
	}
}

// read makes what reads the inputs, and the records that outlive the daemon. It fails at nothing: what cannot be read is told later.
func (d *parts) read() {
	d.chains = new(forward.Reader)
	d.ruleFiles = rules.NewReader(d.rulesDir, d.template)
	d.ruleFiles.Under(d.ceiling)
	d.lists = d.dom0()
	d.lists.Join(d.ruleFiles)
	d.uses, d.unreadUses = uses.Open(filepath.Join(d.stateDir, "uses"))
	d.sightings, d.unreadSightings = sightings.Open(filepath.Join(d.stateDir, "seen"))
}

// config returns what the supervisor works with.
func (d *parts) config(ctx context.Context) supervisor.Config {
	return supervisor.Config{
		Read: d.inputs(ctx),
		Names: supervisor.Names{
			LookUp: d.names.lookUp, WhyNone: d.names.whyNone, Asker: d.names.Asker, InForce: d.names.configure,
		},
		Connections: supervisor.Connections{
			Attempts: firewall.Attempts, Beyond: nft.Beyond, Forget: d.way.forget(), ForgetAll: d.way.forgetAll(d.options),
		},
		Clock:   supervisor.Clock{Now: bootTime, WakeAt: d.alarm.set},
		Systemd: supervisor.Systemd{Notify: d.systemd.notify, MakesFiles: systemdMakes(d.runtimeDir)},

		Firewall:   d.way.firewall,
		Proxies:    d.proxies,
		Users:      d.users,
		Events:     d.events,
		Sightings:  d.sightings,
		Uses:       d.uses,
		WriteStops: d.stops().Write,
		Rest:       rest,

		Egress:    d.egress,
		Leave:     d.leave,
		HoldOwned: d.onOwned == "hold",
		Ports:     d.listenPorts,
		Limits:    plan.Limits{Drain: d.drain, Generations: retiredMax, Full: fullMax},
		Heartbeat: heartbeat(),
		Resync:    resync(d.way.firewall),
		Setup:     d.setup(),
	}
}

// inputs returns what reads the inputs.
func (d *parts) inputs(ctx context.Context) supervisor.Inputs {
	return supervisor.Inputs{
		Links:        netwatch.Read,
		LinksAt:      netwatch.Look,
		Rules:        d.ruleFiles.Read,
		RulesChanged: d.ruleFiles.Changed,
		Binary:       func() (tinyproxy.Binary, error) { return d.readBinary(ctx) },
		Resolvers:    d.names.readServers,
		Places:       d.readPlaces,
		Stops:        d.stops().Read,
		Forward:      d.chains.Read,
		Listeners:    sockdiag.ReadListeners,
	}
}

// setup returns what clients learn about the options.
func (d *parts) setup() control.Setup {
	return control.Setup{
		Version: defaults.Version(), Started: time.Now(), UID: os.Geteuid(), ProxyPort: int(d.proxyPort), Tinyproxy: d.tinyproxy,
		RulesDir: d.rulesDir, QubesDB: d.dom0Socket(), Template: d.template, Ceiling: d.ceiling, RuntimeDir: d.runtimeDir, PID: os.Getpid(),
		Leave: d.leave, EgressAllow: texts(d.egress), Confinement: d.confinement, Switchboard: d.way.said,
		Names: control.Names{UID: tinyproxy.NamesUID},
	}
}

// readBinary identifies the program tinyproxy. If it is another one than before, it is looked up among those that are known to be unsafe.
func (d *parts) readBinary(ctx context.Context) (tinyproxy.Binary, error) {
	found, err := d.programs.Identify(d.tinyproxy)
	if err == nil && found != d.binary {
		d.binary = found
		d.helpers.Go(func() { warnOfAdvisories(ctx, d.events, found) })
	}
	return found, err
}

// readPlaces reads what sandboxes depend on.
func (d *parts) readPlaces(pages ...string) map[string]string {
	places, err := d.places.Read(pages...)
	if errorText(err) != errorText(d.silent) {
		d.silent = err
		d.unknown(err)
	}
	places[""] = d.proxies.Renewals()
	return places
}

// connect tells the other parts whom to call.
func (d *parts) connect(s *supervisor.Supervisor) {
	d.owned = s.Owned
	d.unknown = impaired(s, "pages of the template")
	if d.onUnseen == "hold" {
		d.sightings.OnDoubt(s.Hold)
	}
	d.events.OnAdmitted(d.uses.Saw)
	d.events.NamesBy(d.names.whyNoName)
}

// keepRecords starts what writes the records that outlive the daemon, until ctx ends.
func (d *parts) keepRecords(ctx context.Context, s *supervisor.Supervisor) {
	keep := func(what string, unread error, keep func(context.Context, func(error))) {
		d.helpers.Go(func() {
			tell := impaired(s, what)
			if unread != nil {
				tell(unread)
			}
			keep(ctx, tell)
		})
	}
	keep("record of when AppVMs were connected", d.unreadSightings, d.sightings.Keep)
	keep("record of which lines of lists are used", d.unreadUses, d.uses.Keep)
	d.helpers.Go(func() { d.uses.Match(ctx) })
}
