package browsers

// firefoxQuiet are preferences that end what Firefox asks for by itself. Nothing of it gets past a white list: what ends here
// is the noise, and the time that it takes. Names are those of firefox-esr 153.8.
var firefoxQuiet = []Setting{
	// Is there a network?
	{"network.captive-portal-service.enabled", false, "no look for a captive portal: the firewall VM is no hotspot"},
	{"network.connectivity-service.enabled", false, "no look whether names resolve and IPv6 works: here neither does"},

	// Before anybody asks.
	{"network.dns.disablePrefetch", true, "no look-up of names that may be needed: the proxy resolves names"},
	{"network.prefetch-next", false, "no page before it is wanted"},
	{"network.predictor.enabled", false, "no connection before it is wanted"},
	{"network.http.speculative-parallel-limit", 0, "no connection before it is wanted"},
	{"browser.urlbar.speculativeConnect.enabled", false, "no connection while somebody types"},
	{"browser.places.speculativeConnect.enabled", false, "no connection when the mouse is over a bookmark"},
	{"browser.search.suggest.enabled", false, "what is typed does not go to a search engine"},
	{"browser.search.update", false, "no updates of search engines"},
	{"browser.urlbar.quicksuggest.enabled", false, "no suggestions of Mozilla's while somebody types"},
	{"browser.region.update.enabled", false, "no question in which country this is, which is for search engines"},
	{"browser.region.network.url", "", "the same at the first start"},

	// The first page and the new tab.
	{"browser.startup.page", 0, "begins with an empty page"},
	{"browser.newtabpage.enabled", false, "a new tab is empty"},
	{"browser.newtabpage.activity-stream.feeds.system.topstories", false, "no stories in a new tab"},
	{"browser.newtabpage.activity-stream.feeds.system.topsites", false, "no tiles in a new tab, whose icons come from their sites"},
	{"browser.newtabpage.activity-stream.showWeather", false, "no weather in a new tab"},
	{"browser.newtabpage.activity-stream.discoverystream.enabled", false, "no stories in a new tab"},
	{"browser.newtabpage.activity-stream.unifiedAds.tiles.enabled", false, "no sponsored tiles (ads.mozilla.org)"},
	{"browser.newtabpage.activity-stream.unifiedAds.spocs.enabled", false, "no sponsored stories (ads.mozilla.org)"},
	{"browser.topsites.contile.enabled", false, "no sponsored tiles (contile.services.mozilla.com)"},
	{"browser.aboutwelcome.enabled", false, "no welcome at the first start"},
	{"browser.startup.homepage_override.mstone", "ignore", "no page of news after an update"},
	{"browser.newtabpage.activity-stream.asrouter.userprefs.cfr.addons", false, "no recommendations of add-ons"},
	{"browser.newtabpage.activity-stream.asrouter.userprefs.cfr.features", false, "no recommendations of features"},

	// What is reported.
	{"toolkit.telemetry.unified", false, "no telemetry"},
	{"toolkit.telemetry.server", "", "no telemetry"},
	{"datareporting.healthreport.uploadEnabled", false, "no telemetry"},
	{"datareporting.usage.uploadEnabled", false, "no daily sign of life"},
	{"datareporting.policy.dataSubmissionEnabled", false, "no reports of any kind"},
	{"datareporting.policy.firstRunURL", "", "no page about privacy at the first start (www.mozilla.org)"},
	{"toolkit.coverage.endpoint.base", "", "no count of those who have telemetry off"},
	{"browser.tabs.crashReporting.sendReport", false, "no crash reports"},
	{"browser.newtabpage.activity-stream.telemetry", false, "no telemetry of the new tab"},

	// Experiments.
	{"app.normandy.enabled", false, "no studies, and no changes of settings from outside"},
	{"app.shield.optoutstudies.enabled", false, "no studies"},
	{"nimbus.rollouts.enabled", false, "no changes of settings from outside"},
	{"browser.discovery.enabled", false, "no recommendations that are made for this user"},

	// Lists and updates. Debian updates Firefox.
	{"browser.safebrowsing.malware.enabled", false, "no lists of unsafe sites: the white list is stricter than any of them"},
	{"browser.safebrowsing.phishing.enabled", false, "the same"},
	{"browser.safebrowsing.downloads.enabled", false, "no questions about downloads"},
	{"browser.safebrowsing.downloads.remote.enabled", false, "the same"},
	{"browser.safebrowsing.provider.google4.updateURL", "", "no updates of these lists"},
	{"browser.safebrowsing.provider.google5.enabled", false, "the same"},
	{"browser.safebrowsing.provider.google5.updateURL", "", "the same"},
	{"extensions.update.enabled", false, "no updates of add-ons: they come from hosts that are not listed"},
	{"extensions.systemAddon.update.enabled", false, "no add-ons from outside"},
	{"extensions.getAddons.cache.enabled", false, "no descriptions of add-ons"},
	{"media.gmp-manager.url", "", "no look for media plug-ins"},
	{"media.gmp-manager.updateEnabled", false, "the same"},
	{"media.gmp-gmpopenh264.enabled", false, "no download of OpenH264"},
	{"media.gmp-widevinecdm.enabled", false, "no download of Widevine"},
	{"browser.ml.enable", false, "no models"},
	{"services.settings.poll_interval", 31536000, "Remote Settings once a year: only a policy ends that"},

	// Accounts and messages.
	{"identity.fxaccounts.enabled", false, "no Mozilla account, no synchronization"},
	{"dom.push.connection.enabled", false, "no connection for push messages, which would stay open day and night"},
	{"signon.management.page.breach-alerts.enabled", false, "no list of broken into sites"},
	{"geo.provider.network.url", "", "no question where this is"},

	// Certificates that are taken back. Lists of these come by Remote Settings, which is off or refused, so what is left is
	// to ask the authority. If its host (ocsp.…) is not listed, the page opens all the same, and `denied` names the host: whether it
	// is allowed is for a person to say.
	{"security.OCSP.enabled", 1, "asks the authority whether a certificate was taken back: its host may be listed"},
}

// firefoxPolicies are policies for what is no preference, or none that a policy may set.
var firefoxPolicies = []Setting{
	{"DNSOverHTTPS", map[string]any{"Enabled": false, "Locked": true}, "the proxy resolves names"},
	{"CaptivePortal", false, "the firewall VM is no hotspot"},
	{"NetworkPrediction", false, "no connection before it is wanted"},
	{"DisableTelemetry", true, "no telemetry"},
	{"DisableFirefoxStudies", true, "no studies, no Normandy"},
	{"DisableRemoteImprovements", true, "no changes of settings from outside (Nimbus)"},
	// It brings lists of certificates that were taken back (CRLite) and of harmful add-ons. Its hosts are on no white list, so
	// these do not come in any case. Whoever wants them takes this line out and allows firefox.settings.services.mozilla.com
	// and firefox-settings-attachments.cdn.mozilla.net.
	{"DisableRemoteSettingsAndAcceptSecurityConsequences", true, "no Remote Settings"},
	{"DisableAppUpdate", true, "Debian or Fedora updates Firefox, in the template"},
	{"DisableSystemAddonUpdate", true, "no add-ons from outside"},
	{"ExtensionUpdate", false, "updates of add-ons come from hosts that are not listed"},
	{"DisableFirefoxAccounts", true, "no Mozilla account, no synchronization"},
	{"DisablePocket", true, "no stories"},
	{"DisableFeedbackCommands", true, "no reports to Mozilla"},
	{"SearchSuggestEnabled", false, "what is typed does not go to a search engine"},
	{"FirefoxSuggest", map[string]any{"WebSuggestions": false, "SponsoredSuggestions": false, "ImproveSuggest": false,
		"Locked": true}, "no suggestions of Mozilla's while somebody types"},
	{"FirefoxHome", map[string]any{"TopSites": false, "SponsoredTopSites": false, "Highlights": false, "Pocket": false,
		"Stories": false, "SponsoredPocket": false, "SponsoredStories": false, "Weather": false, "Locked": true},
		"nothing from outside in a new tab"},
	{"NewTabPage", false, "a new tab is empty"},
	{"Homepage", map[string]any{"StartPage": "none", "Locked": true}, "begins with an empty page"},
	{"OverrideFirstRunPage", "", "no page at the first start"},
	{"OverridePostUpdatePage", "", "no page after an update"},
	{"SkipTermsOfUse", true, "no question at the first start, which would load a page"},
	{"UserMessaging", map[string]any{"ExtensionRecommendations": false, "FeatureRecommendations": false,
		"UrlbarInterventions": false, "SkipOnboarding": true, "MoreFromMozilla": false, "Locked": true}, "no messages of Mozilla's"},
	{"EncryptedMediaExtensions", map[string]any{"Enabled": false, "Locked": true}, "no download of Widevine"},
	{"TranslateEnabled", false, "no download of translation models"},
	{"DontCheckDefaultBrowser", true, "no question at the start"},
}
