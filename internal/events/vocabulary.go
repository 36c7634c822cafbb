package events

import "log/slog"

// A Kind is one word of the daemon's vocabulary: a kind of event.
type Kind int

const (
	_ Kind = iota

	// The daemon itself.
	DaemonStarts
	DaemonFails
	DaemonStops
	Reloading
	WatchFailed
	Vulnerable
	Leftovers
	Confined
	PartlyConfined
	Trouble
	Unfenced
	Impaired
	Barred
	NotBarred
	Recovered

	// AppVMs and their lists.
	Connected
	Disconnected
	RulesFound
	RulesRenamed
	RulesGone
	RulesRefused
	RulesAccepted
	RulesSuspicious
	RulesSuspiciousMore
	BlackList
	AnyAddress
	Stopped
	Started
	Refused
	Unreached
	TurnedAway
	ClientsFull
	Allowed
	AllowedNoMore
	Learning
	LearningOver
	Owned
	Unseen

	// Proxies.
	ProxyListens
	InForce
	ProxyRetires
	ProxyFull
	ProxyEnds
	ProxyDied
	ProxyFails
	FilesStale
	StillTracked
	ResolverEnded
	NoResolver
)

// A word is what is fixed about a Kind.
type word struct {
	name  string // in the journal's field EVENT and in `watch --json`: scripts rely on it
	id    string // MESSAGE_ID (systemd.journal-fields(7)), explained in packaging/vifproxy.catalog; never changes
	level slog.Level
	text  string
}

const (
	info = slog.LevelInfo
	warn = slog.LevelWarn
	fail = slog.LevelError
)

// vocabulary is the whole of it.
var vocabulary = [...]word{
	DaemonStarts:   {"daemon-starts", "ce910503964148ab89a084225350796c", info, "vifproxyd starts"},
	DaemonFails:    {"daemon-fails", "de5a1c62020b4c038d75f5b266e1ba4f", fail, "vifproxyd gives up"},
	DaemonStops:    {"daemon-stops", "88ea375e00fb42a9996742a53d6ad400", info, "vifproxyd stops"},
	Reloading:      {"reloading", "9704fc67e71e47eb8ff0571221adc873", info, "reading everything again"},
	WatchFailed:    {"deaf", "0bf49795ad6040f3b6be14158db9c6b6", fail, "no events: reading the input every 5 s instead"},
	Vulnerable:     {"vulnerable", "ed9908ac23ba4f1fbd8bf6e21f78b71b", warn, "tinyproxy has a known weakness"},
	Leftovers:      {"leftovers", "f759cce9252a47969f300381d9aa8cbb", warn, "ended proxies that an earlier run had left"},
	Confined:       {"confined", "c705392084b34c5a9a7450b3f0f93713", info, "proxies are confined"},
	PartlyConfined: {"half-confined", "fb61e58e175541749f222731d0cd1d62", warn, "proxies are not fully confined"},
	Trouble:        {"trouble", "e0eb85c074f741aeb3f5fba50fe91d6e", fail, "cannot apply changes: keeping the current state"},
	Unfenced:       {"unfenced", "6d617560e90d484590ac9abfaff7a896", fail, "the fence around proxies does not stand: all proxies end until it does"},
	Impaired:       {"impaired", "7f10c1dd73864498b1467219664f9608", fail, "something does not work; AppVMs are served all the same"},
	Barred:         {"barred", "7ff9e10904954f9b8ecd42fa963f975f", warn, "proxies may not leave by an interface: what AppVMs send is not forwarded there"},
	NotBarred:      {"not-barred", "e0a0143aac06481189b0aa84069fc6db", info, "proxies may leave by an interface again"},
	Recovered:      {"recovered", "d057cb6fb434480a84dcf3fb7c951c9e", info, "works again"},

	Connected:           {"connected", "02308dd0ae3d4228873242217b0d3e67", info, "AppVM connected"},
	Disconnected:        {"disconnected", "0cca183d8da2447cb13516e616a18a97", info, "AppVM disconnected"},
	RulesFound:          {"rules-found", "1ed8a3ff0d8d4224b87c4ec7fc7ee318", info, "list found"},
	RulesRenamed:        {"rules-renamed", "9f75be59d95e4dd98191aed5020084ce", info, "list renamed"},
	RulesGone:           {"rules-gone", "566c9867d8334c9cbbeb69bc5e81d55c", info, "list gone"},
	RulesRefused:        {"rules-refused", "9cc37e36fba043779e0e113a7fea80c1", fail, "rules refused"},
	RulesAccepted:       {"rules-accepted", "6dd6d34f8d0c45ba83417e2b1f079b8e", info, "rules accepted"},
	RulesSuspicious:     {"rules-odd", "ccc452e8544e4a6d8b303fe9b36c6853", warn, "suspicious line in a list"},
	RulesSuspiciousMore: {"rules-odd-more", "8397f7c262a243f4a74f9f8969de79ea", warn, "more suspicious lines in a list: see `vifproxyctl check`"},
	BlackList:           {"black-list", "449ddca7852d4f648652f60ede38a96f", warn, "black list: the AppVM reaches all hosts except those in its rule file"},
	AnyAddress:          {"any-address", "c3960165b4e0410c8409bbd03a24c544", warn, "the AppVM's proxy may connect to any public address"},
	Stopped:             {"stopped", "750cbbcbd4f64a9db72d03937efdd041", info, "AppVM stopped"},
	Started:             {"started", "4da8bb6bb81f46349535491b4142185f", info, "AppVM started again"},
	Refused:             {"refused", "92fa93ee45404cc780aaba9dcaf6dead", info, "refused host"},
	Unreached:           {"unreached", "1eb1275eb9d4404988faecd0b2f07175", info, "host not reached"},
	TurnedAway:          {"turned-away", "79960327a9ad43cf96cb4ccf7b4355ee", info, "the template turns away the requests of the AppVM"},
	ClientsFull:         {"full", "3b4a561001ec49479f17b2b389e61e7e", info, "all connections that the AppVM may have are open"},
	Allowed:             {"allowed", "f292835a6b484f0d8a8b09ba5ffe998f", info, "host allowed for a time"},
	AllowedNoMore:       {"allowed-no-more", "3625e0665b6d41d2bbcd67768b7f01a6", info, "host no longer allowed"},
	Learning:            {"learning", "ca8603af75c143818be302132add3adc", warn, "learning: the AppVM reaches every public host by its name"},
	LearningOver:        {"learning-over", "c00808457c03462c84da2e54c2b45a16", info, "learning is over: the list is in force again"},

	Owned: {"owned", "959c72719de547e79d32c998e1993109", fail, "a proxy asks what no tinyproxy asks: somebody has taken it over"},

	Unseen: {"unseen", "d305f8ea77b549c6a046a47fd7bdbab9", warn, "an AppVM has an address that nobody has had for long: is its list made for it?"},

	ProxyListens:  {"proxy-listens", "dea960c6d87448d3a416a4136958451c", info, "proxy listens"},
	InForce:       {"in-force", "b10c344bb9f2488fb21bdea30a1d1d53", info, "change in force"},
	ProxyRetires:  {"proxy-retires", "3233def1f8c14afd834946a018c7d0e6", info, "proxy finishes its connections"},
	ProxyFull:     {"proxy-full", "f83c34d4ab904c4ea7ab8669c0c36c45", info, "the same clients hold all connections of a proxy: another one follows it"},
	ProxyEnds:     {"proxy-ends", "aa71482c1a07469396b184c38f2f37ea", info, "proxy ends"},
	ProxyDied:     {"proxy-died", "864e9e157508452d8fc943657ae28fb2", warn, "proxy died"},
	ProxyFails:    {"proxy-fails", "9fee039b9bbb4e069d38d018333885c7", warn, "proxy does not start"},
	FilesStale:    {"not-shown", "79ff3a72d588452895670ae00afb72ce", warn, "cannot show which configuration serves"},
	ResolverEnded: {"resolver-ended", "aed3ffea7d9b4c9b8b2deb1a1dc5a9bb", warn, "the resolver ended: names are answered again when the next one runs"},
	NoResolver:    {"no-resolver", "aabf7584dabd4fa5a9effd0b3c520c54", fail, "no resolver runs: AppVMs reach no host by its name until one does"},
	StillTracked:  {"still-tracked", "99f38234a61d4e2f950ebe8825f00a1b", warn, "connections of a proxy that ended may still be tracked"},
}
