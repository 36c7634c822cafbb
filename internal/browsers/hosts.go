// Package browsers knows what web browsers do without being asked: the hosts that they contact by themselves, and the
// settings that end it. Nothing here decides whether a request passes.
package browsers

import "strings"

// hosts are those that a browser asks for although no page needs them, each with what for. A name with a dot in front
// stands for that domain and all names below it. Some were seen with fresh profiles of firefox-esr 153.8 and chromium 156
// of Debian 12, behind a proxy that refuses everything else; the others are those that their makers name.
//
// A page may need some of them too, such as www.google.com. So an entry changes where a refusal is listed, and never
// whether.
var hosts = map[string]string{
	// Mozilla Firefox, and Thunderbird.
	"detectportal.firefox.com":              "Firefox looks for a captive portal",
	"detectportal.prod.mozaws.net":          "Firefox looks for a captive portal",
	".services.mozilla.com":                 "Firefox asks Mozilla for settings, lists, suggestions and accounts",
	".cdn.mozilla.net":                      "Firefox fetches settings and their signatures",
	"push.services.mozilla.com":             "Firefox keeps a connection for push messages",
	"firefox.settings.services.mozilla.com": "Firefox reads Remote Settings",
	"content-signature-2.cdn.mozilla.net":   "Firefox checks the signatures of Remote Settings",
	"shavar.services.mozilla.com":           "Firefox updates lists of trackers",
	"location.services.mozilla.com":         "Firefox asks in which country it is",
	"incoming.telemetry.mozilla.org":        "Firefox sends telemetry",
	".telemetry.mozilla.org":                "Firefox sends telemetry",
	".telemetry.mozilla.com":                "Firefox sends telemetry",
	"ads.mozilla.org":                       "Firefox fetches sponsored tiles of the new tab",
	"aus5.mozilla.org":                      "Firefox looks for updates of itself and of media plug-ins",
	"versioncheck.addons.mozilla.org":       "Firefox looks for updates of add-ons",
	"versioncheck-bg.addons.mozilla.org":    "Firefox looks for updates of add-ons",
	"crash-stats.mozilla.org":               "Firefox sends crash reports",
	"crash-reports.mozilla.com":             "Firefox sends crash reports",
	"ciscobinary.openh264.org":              "Firefox fetches the OpenH264 plug-in",
	"mozilla.cloudflare-dns.com":            "Firefox resolves names over HTTPS",
	".getpocket.com":                        "Firefox fetches stories for the new tab",
	".getpocket.cdn.mozilla.net":            "Firefox fetches stories for the new tab",

	"normandy.cdn.mozilla.net": "Firefox looks for studies",
	"www.mozilla.org":          "Firefox shows a page at its first start",

	// Chromium.
	"accounts.google.com":                     "Chromium asks which Google accounts are signed in",
	"www.google.com":                          "Chromium prepares its search engine",
	"clients1.google.com":                     "Chromium asks its search engine for suggestions",
	"clients2.google.com":                     "Chromium looks for updates of extensions and of components",
	"clients4.google.com":                     "Chromium synchronizes and sends metrics",
	"clients2.googleusercontent.com":          "Chromium fetches extensions",
	"clientservices.googleapis.com":           "Chromium reads the settings of field trials",
	"android.clients.google.com":              "Chromium registers for push messages",
	"mtalk.google.com":                        "Chromium keeps a connection for push messages",
	"mtalk4.google.com":                       "Chromium keeps a connection for push messages",
	"update.googleapis.com":                   "Chromium looks for updates of components",
	"edgedl.me.gvt1.com":                      "Chromium fetches components",
	"redirector.gvt1.com":                     "Chromium fetches components",
	"optimizationguide-pa.googleapis.com":     "Chromium fetches hints and models",
	"content-autofill.googleapis.com":         "Chromium asks what the fields of a form are",
	"safebrowsing.googleapis.com":             "browsers update lists of unsafe sites",
	"safebrowsing.google.com":                 "browsers update lists of unsafe sites",
	"safebrowsingohttpgateway.googleapis.com": "Chromium asks whether a site is unsafe",
	"sb-ssl.google.com":                       "browsers ask whether a download is unsafe",
	"ssl.gstatic.com":                         "Chromium loads its new tab",
	"ogads-pa.clients6.google.com":            "Chromium loads its new tab",
	"passwordsleakcheck-pa.googleapis.com":    "Chromium asks whether a password is known",
	"chromekanonymity-pa.googleapis.com":      "Chromium registers for private advertising",
	"chromekanonymityquery-pa.googleapis.com": "Chromium registers for private advertising",
	"dns.google":                              "Chromium resolves names over HTTPS",
	"chrome.cloudflare-dns.com":               "Chromium resolves names over HTTPS",
	"connectivitycheck.gstatic.com":           "a system looks for a captive portal",

	// Desktops.
	"connectivity-check.ubuntu.com": "NetworkManager looks for a captive portal",
	"network-test.debian.org":       "NetworkManager looks for a captive portal",
	"nmcheck.gnome.org":             "NetworkManager looks for a captive portal",
	"fedoraproject.org":             "NetworkManager looks for a captive portal",
}

// Purpose returns what a browser wants of a host although no page needs it, for a person; "" if none is known to do that.
// Upper case, and a dot at the end, make no difference.
func Purpose(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if purpose := hosts[host]; purpose != "" && host[0] != '.' {
		return purpose
	}
	for domain := host; domain != ""; {
		if purpose := hosts["."+domain]; purpose != "" {
			return purpose
		}
		_, domain, _ = strings.Cut(domain, ".")
	}
	return ""
}
