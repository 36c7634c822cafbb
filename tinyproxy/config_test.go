package tinyproxy

import (
	"crypto/sha256"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParseConfig(t *testing.T) {
	got, text, err := ParseConfig("/rw/config", strings.Join([]string{
		"## a comment", "   # indented", "", "\t",
		"User nobody", "group nogroup", "Syslog On",
		"  LOGFILE \t\"/var/log/x\"  ", `PidFile "/run/a b.pid"` + "\r",
		"Port 61000", "Listen 10.137.0.1", "listen 127.0.0.1", `Filter "/run/v/social/61000/rules"`,
		"FilterDefaultDeny Yes", "FilterExtended on", "filterextended \tYES",
		"FilterCaseSensitive no", "FilterURLs OFF",
		"FilterType FnMatch", "Timeout 600", "Allow 10.137.0.9", "MaxClients 20", "ConnectPort 563",
		`ErrorFile 404 "/e 404"`, `DefaultErrorFile "/e"`, `StatFile "/s"`, "BindSame yes",
		`Upstream http user:pass@proxy.corp.example:3128 ".corp"`}, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	same := strings.Join([]string{"MaxClients 20", "ConnectPort 563",
		`ErrorFile 404 "/e 404"`, `DefaultErrorFile "/e"`, `StatFile "/s"`, "BindSame yes",
		`Upstream http user:pass@proxy.corp.example:3128 ".corp"`, ""}, "\n")
	rest := "FilterDefaultDeny Yes\nFilterExtended on\nfilterextended \tYES\nFilterCaseSensitive no\nFilterURLs OFF\n" +
		"filtertype fnmatch\nTimeout 600\nAllow 10.137.0.9\n" + same
	wantText := strings.Repeat("#\n", 9) +
		"Port 61000\nListen 10.137.0.1\nlisten 127.0.0.1\nFilter \"/run/v/social/61000/rules\"\n" +
		"FilterDefaultDeny Yes\n#\n#\n#\nFilterURLs OFF\n#\nTimeout 600\nAllow 10.137.0.9\n" + same +
		"FilterExtended Yes\nFilterCaseSensitive Yes\n" // fnmatch's, which is compiled
	want := Config{
		MaxClients: 20, MaxClientsLine: 22, PageFiles: []string{"/e 404", "/e", "/s"}, SetsSource: true, Pages: []string{"404", "*"},
		ConnectPorts: []uint16{563}, Routes: []Route{{".corp", Upstream{"proxy.corp.example", 3128}}},
		LogFile: "/var/log/x", PidFile: "/run/a b.pid", Port: 61000,
		Listen:      []netip.Addr{netip.MustParseAddr("10.137.0.1"), netip.MustParseAddr("127.0.0.1")},
		RulesFile:   "/run/v/social/61000/rules",
		Filter:      Filter{Enabled: true, DefaultDeny: true, Extended: true, Fnmatch: true},
		Fingerprint: sha256.Sum256([]byte("listen 127.0.0.1\n" + rest)),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if text != wantText {
		t.Errorf("got  %q\nwant %q", text, wantText)
	}
	for _, white := range []string{"Port 1\nFilterDefaultDeny Yes\nFilterURLs Yes\nfiltertype fnmatch\n",
		"filtertype fnmatch\n", "filtertype ere\nFilterDefaultDeny Yes\n"} {
		if _, text, err := ParseConfig("", white); err != nil || text != white {
			t.Errorf("%q became %q, %v", white, text, err)
		}
	}
}

// TestMoreClientsThanThereAreNumbers are more than a machine serves, and not the number that a template without MaxClients has.
func TestMoreClientsThanThereAreNumbers(t *testing.T) {
	c, _, err := ParseConfig("", "MaxClients 99999999999999999999\n")
	if err != nil || c.MaxClients != math.MaxInt || c.MaxClientsLine != 1 {
		t.Errorf("%d clients by line %d: %v", c.MaxClients, c.MaxClientsLine, err)
	}
}

// TestTinyproxySaysAll, whatever the template wants in the log.
func TestTinyproxySaysAll(t *testing.T) {
	for line, want := range map[string]struct {
		level LogLevel
		text  string
	}{
		"":                     {"", "#\n"},
		"LogLevel Notice":      {"notice", "LogLevel Info\n"},
		"loglevel \t CRITICAL": {"critical", "LogLevel Info\n"},
		"LogLevel Connect":     {"connect", "LogLevel Info\n"},
		"LogLevel Loud":        {"", "LogLevel Loud\n"}, // tinyproxy is to refuse it
	} {
		c, text, err := ParseConfig("", line+"\n")
		if err != nil || c.LogLevel != want.level || text != want.text {
			t.Errorf("%q: level %q, %q, %v", line, c.LogLevel, text, err)
		}
	}
	quiet, _, err1 := ParseConfig("", "LogLevel Critical\n")
	loud, _, err2 := ParseConfig("", "LogLevel Info\n")
	if err1 != nil || err2 != nil || quiet.Fingerprint == loud.Fingerprint {
		t.Error("a change of LogLevel makes no new process")
	}
	if _, _, err := ParseConfig("", "Listen 0.0.0.0\nListen 127.0.0.1\nListen ::\n"); err != nil { // 0.0.0.0 stands for the gateway
		t.Error(err)
	}
	one, _, err1 := ParseConfig("", "Listen 10.138.1.1\n")
	two, _, err2 := ParseConfig("", "Listen 10.138.1.1\nListen 127.0.0.1\n")
	if err1 != nil || err2 != nil || one.Fingerprint == two.Fingerprint {
		t.Error("a second Listen makes no new process")
	}
}

func TestUpstreamsAndConnectPorts(t *testing.T) {
	got, _, err := ParseConfig("", strings.Join([]string{
		"ConnectPort 443", "connectport \t563", "ConnectPort x", "ConnectPort 0",
		"Upstream http 10.0.0.5:3128", `upstream socks5 me:p@ss@proxy.corp.example:1080 ".example"`,
		`Upstream SOCKS4 [fd00::1]:1080`, "Upstream old.example:8080", `Upstream none ".local"`, "upstream\tnone  \".lan\"",
		"Upstream http me:two words@blank.example:3128",
	}, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []uint16{443, 563}; !slices.Equal(got.ConnectPorts, want) {
		t.Errorf("got %v, want %v", got.ConnectPorts, want)
	}
	want := []Route{{"", Upstream{"10.0.0.5", 3128}}, {".example", Upstream{"proxy.corp.example", 1080}}, {"", Upstream{"fd00::1", 1080}},
		{"", Upstream{"old.example", 8080}}, {".local", Upstream{}}, {".lan", Upstream{}}, {"", Upstream{"blank.example", 3128}}}
	if !slices.Equal(got.Routes, want) {
		t.Errorf("got  %v\nwant %v", got.Routes, want)
	}
	if all := got.Upstreams(); len(all) != 5 || slices.Contains(all, Upstream{}) {
		t.Errorf("got %v", all)
	}
}

func TestParseConfigErrors(t *testing.T) {
	const twice = " takes the same port of the same address once more (write Listen {bind_ip} once, and remove this line)"
	const once = " (keep one of them, so that people and every tinyproxy read the same)"
	const noUpstream = ": an Upstream that tinyproxy does not read, or not as it looks (write Upstream http HOST:PORT, " +
		"with the site in quotes behind it if it is for one, or Upstream none \"SITE\"; nothing else may stand in the line)"
	for text, want := range map[string]string{
		"Port 1\nLogFile /x":                          `2: "LogFile /x" has no path (write it in double quotes: LogFile "/path")`,
		`PidFile "a`:                                  `1: "PidFile \"a" has no path (write it in double quotes: LogFile "/path")`,
		"MaxClients  00":                              `1: "MaxClients  00" serves nobody (write 1 or more)`,
		"Listen 10.138.1.1\nlisten 0.0.0.0":           `2: "listen 0.0.0.0"` + twice,
		"Listen 0.0.0.0\nListen 0.0.0.0":              `2: "Listen 0.0.0.0"` + twice,
		"Port 61000\nport 61001":                      `2: "port 61001" is a second Port (write "Port {port}", and no other Port)`,
		"Filter \"/a\"\nFilter \"/b\"":                `2: "Filter \"/b\"" is a second Filter (write Filter "{rules_file}", and no other Filter)`,
		"Listen 10.1.1.1\nListen ::\nListen 10.1.1.1": `3: "Listen 10.1.1.1"` + twice,
		"User \x00":                                   "1: NUL byte (tinyproxy would not read what follows it; remove it)",
		"FilterDefaultDeny Yes\n\nFilterDefaultDeny on\nfilterdefaultdeny\tno": `4: "filterdefaultdeny\tno" contradicts line 3` + once,
		"FilterDefaultDeny off\nFilterDefaultDeny Yes":                         `2: "FilterDefaultDeny Yes" contradicts line 1` + once,
		"FilterURLs Yes\nFilterURLs No":                                        `2: "FilterURLs No" contradicts line 1` + once,
		"FilterExtended Yes\nFilterExtended No":                                `2: "FilterExtended No" contradicts line 1` + once,
		"FilterCaseSensitive Yes\nFilterCaseSensitive No":                      `2: "FilterCaseSensitive No" contradicts line 1` + once,
		"FilterType ere\nFilterType ERE\nFilterType bre":                       `3: "FilterType bre" contradicts line 2` + once,
		"Upstream http x:1\nFilterDefaultDeny Yes\nFilterURLs Yes": `3: with an Upstream, FilterURLs lets anything pass that looks ` +
			"like a listed URL, and the Upstream may read another host in it (remove FilterURLs and list hosts, or remove the Upstream)",
		"Upstream":                               "1" + noUpstream,
		"Upstream http x:0":                      "1" + noUpstream,
		"Upstream http x:65979":                  "1" + noUpstream, // tinyproxy connects to port 443
		"Upstream http me:12 host:3128":          "1" + noUpstream,
		"Upstream http a:1 x":                    "1" + noUpstream,
		"Upstream none \".corp\" # our own":      "1" + noUpstream, // it ends with a site for tinyproxy
		"Upstream none \".corp\" http u:p@x:1":   "1" + noUpstream,
		"Upstream none":                          "1" + noUpstream,
		"Upstream NONE \".corp\"":                "1" + noUpstream,
		"Upstream the http x:1":                  "1" + noUpstream, // an Upstream for tinyproxy
		"Upstream http a:1 \"b\" http c:1 \"d\"": "1" + noUpstream,
		"\nAllow " + strings.Repeat("a", 1022): "2: line of 1028 bytes " +
			"(tinyproxy would cut it; write at most 1022)",
	} {
		if _, _, err := ParseConfig("/rw/config", text); err == nil || err.Error() != "/rw/config:"+want {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func TestIdentities(t *testing.T) {
	var ids Identities
	for _, c := range []struct {
		addr string
		uid  uint32
	}{
		{"10.137.0.13", 0x7089000d}, {"10.255.255.255", 0x70ffffff}, {"192.168.1.2", 0x71000000},
		{"172.16.0.1", 0x71000001}, {"192.168.1.2", 0x71000000}, {"::ffff:10.0.0.1", 0x70000001},
	} {
		if got := ids.UID(netip.MustParseAddr(c.addr)); got != c.uid || !IsProxyUID(got) {
			t.Errorf("%s: %#x, want %#x", c.addr, got, c.uid)
		}
	}
}
