//! What holds of the page whatever it shows: it can be read, it fits the window, and it asks for nothing elsewhere.

use serde_json::{Value, json};

use crate::support::browser::{Browser, Scheme, Tab};

/// The least contrast of text against what is behind it, by WCAG 2 (AA).
const LEAST_CONTRAST: f64 = 4.5;

/// The texts in sight with less contrast than wanted: `[text, contrast]`.
const FAINT: &str = "(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const [r, g, b, a = 1] = channels(getComputedStyle(element).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility() || element.closest('script, noscript, .unseen')) continue;
    const style = getComputedStyle(element);
    const ink = channels(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(element))].sort((a, b) => b - a);
    found.push([node.data, (a + 0.05) / (b + 0.05)]);
  }
  return found;
})()";

/// How an element is named in what a test says.
pub const NAMED: &str = "var named = (e) => `${e.parentElement.className || e.parentElement.id} > ${e.localName}#${e.id}.${e.className}`";

/// What an element shows.
#[track_caller]
pub fn text(browser: &mut Browser, tab: &Tab, selector: &str) -> String {
    let expression = format!("document.querySelector({}).innerText", json!(selector));
    let value = browser.evaluate(tab, &expression);
    value.as_str().unwrap_or_default().to_owned()
}

/// Waits until the page shows a status.
pub fn shown(browser: &mut Browser, tab: &Tab) {
    browser.wait_for(tab, "document.getElementById('main')?.hidden === false");
}

/// Asks the page for no more than itself, says nothing on the console, and does not need to be scrolled sideways.
#[track_caller]
pub fn well_behaved(browser: &mut Browser, tab: &Tab, base: &str, width: u32) {
    assert_eq!(browser.complaints(tab), [""; 0]);
    let asked = browser.requests(tab);
    assert!(asked.len() >= 9, "the page and its status: {asked:?}");
    for url in asked {
        let inline = url.starts_with("data:image/svg+xml,");
        assert!(inline || url.starts_with(base), "{url} is elsewhere");
    }
    let wide = "document.scrollingElement.scrollWidth";
    let wide = browser.evaluate(tab, wide).as_u64().expect("a number");
    let beyond = format!(
        "{NAMED}; [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > {width}).map(named)"
    );
    let beyond = browser.evaluate(tab, &beyond);
    assert!(
        wide <= u64::from(width),
        "{wide} pixels in {width}: {beyond}"
    );
}

/// The ground is light or dark as wanted, and all text stands out from it.
#[track_caller]
pub fn readable(browser: &mut Browser, tab: &Tab, name: &str, scheme: Scheme) {
    let ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).every((c) => c > 127)";
    let light = browser.evaluate(tab, ground);
    assert_eq!(light, json!(scheme == Scheme::Light), "{name}: {scheme:?}");
    let texts = browser.evaluate(tab, FAINT);
    let texts = texts.as_array().expect("texts");
    assert!(texts.len() > 50, "{name}: {} texts", texts.len());
    let contrast = |text: &Value| text[1].as_f64().expect("a number");
    let faint = texts.iter().filter(|text| contrast(text) < LEAST_CONTRAST);
    let faint = faint.collect::<Vec<_>>();
    assert!(faint.is_empty(), "{name}, {scheme:?}: {faint:?}");
}
