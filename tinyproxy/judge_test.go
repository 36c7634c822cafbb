package tinyproxy

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func pages(hosts ...string) (requests []Request) {
	for _, host := range hosts {
		requests = append(requests, Request{Host: host, Port: 80, URI: "/"})
	}
	return requests
}

func TestJudgeFindsTheLines(t *testing.T) {
	j := Judge{Binary: realBinary}
	lines := []string{`^www\.a\.example$`, `b\.example`, `\.a\.example$`, `[a-z]\{3\}\.a`, `^c$`}
	got, err := j.Matches(bounded(t), lines, pages("www.a.example", "xb.example.net", "d", "WWW.A.EXAMPLE", "a.example"), 3)
	if err != nil {
		t.Fatal(err)
	}
	if want := [][]int{{0, 2, 3}, {1}, nil, {0, 2, 3}, nil}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	got, err = j.Matches(bounded(t), lines, pages("www.a.example"), 1)
	if err != nil || !reflect.DeepEqual(got, [][]int{{0}}) {
		t.Errorf("at most one: %v, %v", got, err)
	}
}

func TestJudgeReadsLinesAsTheTemplateSays(t *testing.T) {
	for _, tt := range []struct {
		filter Filter
		line   string
		want   []bool // of a.example, A.example, aXexample
	}{
		{Filter{}, `^a\.example$`, []bool{true, true, false}},
		{Filter{CaseSensitive: true}, `^a\.example$`, []bool{true, false, false}},
		{Filter{}, `^(a|b)\.example$`, []bool{false, false, false}},
		{Filter{Extended: true}, `^(a|b)\.example$`, []bool{true, true, false}},
		{Filter{Extended: true, Fnmatch: true}, `?.example`, []bool{true, true, false}},
		{Filter{Fnmatch: true}, `a?example`, []bool{true, false, true}},
		{Filter{URLs: true}, `^http://a\.example/$`, []bool{true, true, false}},
		{Filter{URLs: true}, `^a\.example$`, []bool{false, false, false}},
	} {
		got, err := Judge{Binary: realBinary, Filter: tt.filter}.Any(bounded(t), []string{tt.line},
			pages("a.example", "A.example", "aXexample"))
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s under %+v: %v, %v; want %v", tt.line, tt.filter, got, err, tt.want)
		}
	}
}

func TestJudgeNamesBadPatterns(t *testing.T) {
	_, err := Judge{Binary: realBinary}.Any(bounded(t), []string{`^a$`, `\(b`, `[c`}, pages("a"))
	var bad *BadPattern
	if !errors.As(err, &bad) || bad.Line != 1 || bad.Text != `\(b` {
		t.Errorf("got %v", err)
	}
}

func TestJudgeReadsConfigurations(t *testing.T) {
	j := Judge{Binary: realBinary}
	const good = "Listen 10.137.0.1\nPort 8100\nMaxClients 10\nStartServers 1\nMinSpareServers 1\nMaxSpareServers 2\n" +
		"Filter \"rules\"\nFilterDefaultDeny Yes\n"
	if err := j.Takes(bounded(t), good); err != nil {
		t.Error(err)
	}
	for text, line := range map[string]int{"Timout 600\n": 9, "Timeout many\n": 9, "Listen\n": 9, "\n\nConnectPort x\n": 11} {
		var bad *BadConfig
		if err := j.Takes(bounded(t), good+text); !errors.As(err, &bad) || bad.Line != line {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := (Judge{Binary: "/none"}).Takes(bounded(t), good); err == nil {
		t.Error("there is no such program")
	}
}

func TestJudgeKnowsPorts(t *testing.T) {
	_, text, err := ParseConfig("", "Port 1\nConnectPort\t443\n# ConnectPort 22\nconnectport  8443 \n")
	if err != nil {
		t.Fatal(err)
	}
	for _, ports := range [][]string{ConnectPorts(text), nil} {
		for port, listed := range map[uint16]bool{443: true, 8443: true, 22: false} {
			j := Judge{Binary: realBinary, ConnectPorts: ports}
			got, err := j.PortAllowed(bounded(t), Request{Tunnel: true, Host: "a.example", Port: port})
			if want := listed || ports == nil; err != nil || got != want {
				t.Errorf("port %d with %q: %v, %v", port, ports, got, err)
			}
		}
	}
}

func TestJudgeWithoutATinyproxy(t *testing.T) {
	for body, want := range map[string]string{"exit 3": "exit status 3", "echo ill; exit 0": `status 0; it said "ill"`} {
		_, err := Judge{Binary: script(t, body)}.Any(bounded(t), []string{"a"}, pages("a"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", body, err)
		}
	}
	if _, err := (Judge{Binary: "/none"}).Any(bounded(t), []string{"a"}, pages("a")); err == nil {
		t.Error("no error")
	}
}
