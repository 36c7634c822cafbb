package main

import (
	"strings"
	"testing"
)

func TestHostsThatMayBeAskedFor(t *testing.T) {
	for argument, want := range map[string]string{
		"cdn.example": "cdn.example", "CDN.Example.": "cdn.example", "cdn.example+8443": "cdn.example:8443", "cdn.example+65535": "cdn.example:65535",
		"_dmarc.bank.example": "_dmarc.bank.example", "xn--bcher-kva.example": "xn--bcher-kva.example", "me.github.io+443": "me.github.io:443",
		strings.Repeat("a.", 122) + "a.example": strings.Repeat("a.", 122) + "a.example",
	} {
		if host, why := parse(argument); why != "" || host.String() != want {
			t.Errorf("%.80q: got %v, %q, want %s", argument, host, why, want)
		}
	}
}

func TestWhatMayNotBeAskedFor(t *testing.T) {
	for _, argument := range []string{"", "+", "*", "*.shop.example", ".shop.example", "shop.example+", "shop.example+0", "shop.example+08",
		"shop.example+65536", "shop.example+18446744073709551617", "shop.example+443+x", "shop.example++443", "+443", "shop.example+-1",
		"10.137.0.12", "203.0.113.80", "127.1", "0x7f000001", "1.2.3.4.5", "++1", "localhost", "x.localhost", "localhost.", "sys-fw", "com", "co.uk",
		"github.io", "-rf", "--help", "--socket=/x", "..", "../../etc/passwd", "a..example", "-a.example", "a-.example",
		strings.Repeat("a.", 130) + "example", strings.Repeat("a", 64) + ".example", strings.Repeat("a", 65000), "shop.example\nevil.example",
		"shop.example evil.example", "#:.egress", "xn--a.example", "b\u00fccher.example", "shop.example:8443", "_", "[::1]", "$(id).example",
		"shop.example;id", "\x1b[2J.example", "\xff.example"} {
		if host, why := parse(argument); why == "" || strings.ContainsAny(why, "\n\x1b") || len(why) > 200 {
			t.Errorf("%.80q: %v, %q", argument, host, why)
		}
	}
}

// Who calls, and how, decides before any daemon is asked: there is none.
func TestCallsThatAreNone(t *testing.T) {
	for _, c := range []call{
		{service: "vifproxy.Allow", argument: "cdn.example"}, {service: "vifproxy.Allow", caller: "a b", argument: "cdn.example"},
		{service: "vifproxy.Allow", caller: strings.Repeat("a", 32), argument: "cdn.example"}, {service: "vifproxy.Allow", caller: "banking"},
		{service: "vifproxy.Denied", caller: "banking", argument: "x"}, {service: "vifproxy.denied", caller: "banking"},
		{service: "vifproxy-qrexec", caller: "banking", argument: "cdn.example"}, {},
	} {
		if text, ok := serve(t.Context(), c); ok || !strings.HasPrefix(text, "no: ") || strings.Contains(text, "\n") {
			t.Errorf("%+v: %q, %t", c, text, ok)
		}
	}
}

// The longest answer fits into what vifproxy-client shows, with its command for dom0 (wordsMax there).
func TestAnswersAreShort(t *testing.T) {
	host, why := parse(strings.Repeat("a.", 122) + "example+65535")
	c := call{caller: strings.Repeat("b", 31)}
	if text := c.typeInDom0(host); why != "" || len(text) >= 500 || strings.ContainsAny(text, "\n") {
		t.Errorf("%s: %d bytes: %s", why, len(text), text)
	}
}
