// Sets OHIF up for one tenant: where its images are, and with which token it asks for them.
// The server writes INTEROP above this line. The token lives in this closure and nowhere else: not
// in an address, a cookie or a storage of the browser.
(() => {
  "use strict";

  const { organization, root, dicomweb, showsNotice } = INTEROP;
  const TICK = 5000;
  const INPUTS = ["pointerdown", "pointermove", "wheel", "keydown", "touchstart"];

  let token = null;
  let user = null;
  let renewAt = 0;
  let expiresAt = 0;
  let renewing = null;
  let wasActive = true;
  let begin;
  const begun = new Promise((resolve) => {
    begin = resolve;
  });

  // OHIF would take a token from the address, and leave it in the history until then.
  const here = new URL(location.href);
  if (here.searchParams.has("token")) {
    here.searchParams.delete("token");
    history.replaceState(history.state, "", here);
  }

  // -- the token ------------------------------------------------------------------------------

  function renew() {
    renewing ??= ask().finally(() => {
      renewing = null;
    });
    return renewing;
  }

  async function ask() {
    const active = wasActive;
    wasActive = false;
    let answer;
    try {
      answer = await fetch(`${INTEROP.token}?active=${active}`, { method: "POST", cache: "no-store" });
    } catch {
      wasActive ||= active;
      if (isExpired()) cover.show("The server cannot be reached. Trying again.");
      return;
    }
    if (answer.ok) {
      take(await answer.json());
    } else if (answer.status === 401) {
      drop();
      cover.show("Your session has ended.", { label: "Sign in again", href: INTEROP.signIn });
    } else if (answer.status === 403) {
      drop();
      cover.show(sentence((await answer.json()).message), { label: "Sign out", href: INTEROP.signOut });
    } else if (isExpired()) {
      cover.show(`The server answers ${answer.status}. Trying again.`);
    }
  }

  // Until a window says that something may have changed, asking again is no use.
  function drop() {
    token = null;
    expiresAt = 0;
    renewAt = Infinity;
  }

  function take(given) {
    if (user !== null && user !== given.user) {
      // What is shown was opened by somebody else.
      location.reload();
      return;
    }
    const lifetime = given.expires_in * 1000;
    user = given.user;
    token = given.access_token;
    renewAt = Date.now() + lifetime / 2;
    expiresAt = Date.now() + lifetime - TICK;
    cover.hide();
    begin();
  }

  const isExpired = () => Date.now() >= expiresAt;

  function tick() {
    if (isExpired() && token !== null) cover.show("One moment, please.");
    if (Date.now() >= renewAt) renew();
  }

  for (const name of INPUTS) {
    addEventListener(
      name,
      () => {
        wasActive = true;
      },
      { capture: true, passive: true },
    );
  }
  // After a sleep, or a sign-in in another window, without waiting for the clock.
  function returned() {
    if (document.visibilityState === "hidden") return;
    if (token === null) renew();
    else tick();
  }
  addEventListener("focus", returned);
  addEventListener("online", returned);
  document.addEventListener("visibilitychange", returned);
  setInterval(tick, TICK);

  // -- what is shown while there is no token ----------------------------------------------------

  const cover = {
    dialog: null,
    show(text, link) {
      this.dialog ??= this.made();
      const children = [Object.assign(document.createElement("p"), { textContent: text })];
      if (link) {
        // In a window of its own, so that the view stays as it is.
        const { label, href } = link;
        const style = "color:#5acce6";
        const more = { textContent: label, href, target: "_blank", rel: "noopener", style };
        children.push(Object.assign(document.createElement("a"), more));
      }
      this.dialog.replaceChildren(...children);
      if (!this.dialog.open) this.dialog.showModal();
    },
    hide() {
      if (this.dialog?.open) this.dialog.close();
    },
    made() {
      const dialog = document.createElement("dialog");
      // Opaque: who left the room leaves no picture behind.
      dialog.style.cssText =
        "position:fixed;inset:0;width:100vw;height:100vh;max-width:none;max-height:none;margin:0;" +
        "border:0;padding:40vh 10vw;box-sizing:border-box;text-align:center;background:#090c29;" +
        "color:#fff;font:1.1rem system-ui,sans-serif";
      dialog.addEventListener("cancel", (event) => event.preventDefault());
      return document.body.appendChild(dialog);
    },
  };

  const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

  // -- OHIF -----------------------------------------------------------------------------------

  const session = {
    id: "interop.session",
    preRegistration({ servicesManager }) {
      servicesManager.services.userAuthenticationService.setServiceImplementation({
        getAuthorizationHeader: () => (token ? { Authorization: `Bearer ${token}` } : {}),
        handleUnauthenticated: () => {
          renew();
          return null;
        },
      });
    },
  };

  // In both of OHIF's headers: whose images these are, and the way out.
  function logo(React) {
    const out = {
      href: INTEROP.signOut,
      onClick: (event) => event.stopPropagation(),
      style: { color: "#5acce6", marginLeft: "1rem", fontSize: "0.9rem" },
    };
    const name = { style: { color: "#fff", whiteSpace: "nowrap" } };
    return React.createElement(
      "div",
      { style: { display: "flex", alignItems: "center" } },
      React.createElement("span", name, organization),
      React.createElement("a", out, "Sign out"),
    );
  }

  const source = {
    namespace: "@ohif/extension-default.dataSourcesModule.dicomweb",
    sourceName: "interop",
    configuration: {
      friendlyName: organization,
      name: "interop",
      qidoRoot: dicomweb,
      wadoRoot: dicomweb,
      qidoSupportsIncludeField: true,
      supportsFuzzyMatching: true,
      supportsWildcard: true,
      supportsReject: false,
      dicomUploadEnabled: false,
      // Frames as they are stored; thumbnails made by the server, fetched with the token.
      imageRendering: "wadors",
      thumbnailRendering: "thumbnail",
      thumbnailRequestStrategy: "fetch",
      enableStudyLazyLoad: true,
      singlepart: "bulkdata,video,pdf",
      bulkDataURI: { enabled: true },
    },
  };

  async function configuration() {
    await begun;
    return {
      routerBasename: root,
      extensions: [session],
      modes: [],
      customizationService: {},
      showStudyList: true,
      maxNumberOfWebWorkers: 3,
      showLoadingIndicator: true,
      showCPUFallbackMessage: true,
      showWarningMessageForCrossOrigin: false,
      strictZSpacingForVolumeViewport: true,
      groupEnabledModesFirst: true,
      maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 25 },
      investigationalUseDialog: { option: showsNotice ? "always" : "never" },
      whiteLabeling: { createLogoComponentFn: logo },
      defaultDataSourceName: "interop",
      dataSources: [source],
      httpErrorHandler(error) {
        const status = error?.status ?? error?.request?.status;
        if (status === 401) renew();
      },
    };
  }
  // OHIF reads it before it asks for the rest.
  configuration.routerBasename = root;
  window.config = configuration;
  renew();
})();
