package browsers

// chromiumPolicies end what Chromium asks for by itself. Names are those of chromium 156.
//
// EnableOnlineRevocationChecks is not among them: Chromium asks no authority whether a certificate was taken back, and where
// it is told to, a responder that is not listed makes it wait.
var chromiumPolicies = []Setting{
	{"DnsOverHttpsMode", "off", "the proxy resolves names"},
	{"QuicAllowed", false, "the proxy carries TCP only"},
	{"WPADQuickCheckEnabled", false, "no look for a proxy: it is given"},
	{"EnableMediaRouter", false, "no look for devices in the network"},

	// Before anybody asks.
	{"NetworkPredictionOptions", 2, "no connection before it is wanted (2: never)"},
	{"SearchSuggestEnabled", false, "what is typed does not go to a search engine"},
	{"DefaultSearchProviderEnabled", false, "no search engine: its start page is loaded in advance, and it is hardly listed"},
	{"AlternateErrorPagesEnabled", false, "no suggestions for a page that does not open"},
	{"NewTabPageLocation", "about:blank", "a new tab is empty"},
	{"HomepageIsNewTabPage", true, "so is the home page"},
	{"RestoreOnStartup", 5, "begins with a new tab (5)"},
	{"NTPCardsVisible", false, "no stories in a new tab"},
	{"PromotionsEnabled", false, "no pages of Google's about Chromium"},

	// What is reported.
	{"MetricsReportingEnabled", false, "no telemetry"},
	{"UrlKeyedAnonymizedDataCollectionEnabled", false, "no addresses of pages to Google"},
	{"DomainReliabilityAllowed", false, "no reports about Google's own sites"},
	{"FeedbackSurveysEnabled", false, "no surveys"},
	{"WebRtcEventLogCollectionAllowed", false, "no logs to Google"},

	// Experiments.
	{"ChromeVariations", 2, "no changes of settings from outside (2: none)"},

	// Lists and updates. Debian updates Chromium.
	{"ComponentUpdatesEnabled", false, "no updates of components"},
	{"SafeBrowsingProtectionLevel", 0, "no lists of unsafe sites: the white list is stricter than any of them"},
	{"BrowserNetworkTimeQueriesEnabled", false, "no question what time it is"},
	{"PasswordLeakDetectionEnabled", false, "no question whether a password is known"},
	{"SpellcheckEnabled", false, "no download of dictionaries (redirector.gvt1.com), which would come without a page that needs them"},
	{"SpellCheckServiceEnabled", false, "what is typed does not go to Google"},
	{"TranslateEnabled", false, "no translation by Google"},
	{"GenAiDefaultSettings", 2, "no models (2: off)"},
	{"GenAILocalFoundationalModelSettings", 1, "no download of models (1: off)"},
	{"ShoppingListEnabled", false, "no prices of goods"},
	{"MediaRecommendationsEnabled", false, "no recommendations"},

	// Accounts and messages.
	{"BrowserSignin", 0, "no Google account (0: off)"},
	{"SyncDisabled", true, "no synchronization"},
	{"BackgroundModeEnabled", false, "ends with its last window"},
	{"DefaultNotificationsSetting", 2, "no push messages, whose connection would stay open (2: never)"},
	{"DefaultBrowserSettingEnabled", false, "no question at the start"},
}
