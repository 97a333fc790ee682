//! The texts of the status page, in English and Japanese.

use opb_common::outcome::{Reason, Verdict};

use super::form::FormError;
use crate::api::explain::Explanation;

pub(super) struct Texts {
    pub(super) lang: &'static str,
    /// The code and the own name of the other language.
    pub(super) other: (&'static str, &'static str),
    pub(super) title: &'static str,
    pub(super) enforcing: &'static str,
    pub(super) degraded: &'static str,
    pub(super) starting: &'static str,
    pub(super) form_title: &'static str,
    pub(super) form_intro: &'static str,
    pub(super) source: &'static str,
    pub(super) destination: &'static str,
    pub(super) port: &'static str,
    pub(super) ask: &'static str,
    form_errors: FormErrors,
    /// Precedes an error of the daemon.
    pub(super) failed: &'static str,
    pub(super) unavailable: &'static str,
    pub(super) advice: &'static str,
    pub(super) steps: &'static str,
    pub(super) other_rules: &'static str,
    pub(super) other_rules_unknown: &'static str,
    pub(super) interfaces: &'static str,
    pub(super) policy: &'static str,
    pub(super) generation: &'static str,
    pub(super) hour: &'static str,
    pub(super) chart: &'static str,
    pub(super) minutes_ago: &'static str,
    pub(super) now: &'static str,
    pub(super) counters: &'static str,
    pub(super) interface_counters: &'static str,
    pub(super) talkers: &'static str,
    pub(super) events: &'static str,
    pub(super) none: &'static str,
    pub(super) suspect: &'static str,
    pub(super) relay_host: &'static str,
    pub(super) pause: &'static str,
    pub(super) resume: &'static str,
    pub(super) interface_columns: [&'static str; 4],
    pub(super) counter_columns: [&'static str; 6],
    pub(super) talker_columns: [&'static str; 7],
    pub(super) event_columns: [&'static str; 5],
    /// Passed, denied, would be denied.
    pub(super) series: [&'static str; 3],
    answers: &'static Answers,
}

/// What to enter, by [`FormError`].
struct FormErrors {
    source: &'static str,
    destination: &'static str,
    port: &'static str,
    families: &'static str,
}

/// Verdict sentences and advice, by case.
struct Answers {
    relay: [&'static str; 2],
    exempt: [&'static str; 2],
    unknown: [&'static str; 2],
    other_port: [&'static str; 2],
    submission: [&'static str; 2],
    not_syn: [&'static str; 2],
    denied: [&'static str; 2],
    watched: [&'static str; 2],
    no_policy: [&'static str; 2],
    /// opb passes it, and a rule of others may not.
    other_rules: [&'static str; 2],
    bypassed: [&'static str; 2],
}

impl Texts {
    pub(super) const fn form_error(&self, error: FormError) -> &'static str {
        let errors = &self.form_errors;
        match error {
            FormError::Source => errors.source,
            FormError::Destination => errors.destination,
            FormError::Port => errors.port,
            FormError::Families => errors.families,
        }
    }

    /// The verdict in a sentence, and the advice for the customer.
    pub(super) fn answer(&self, explained: &Explanation, port: u16) -> [&'static str; 2] {
        let answers = self.answers;
        if explained.other_rules.as_ref().is_some_and(|others| !others.rules.is_empty()) {
            return answers.other_rules;
        }
        match (explained.verdict, explained.reason) {
            (Verdict::Drop | Verdict::Reject, _) => answers.denied,
            (Verdict::WouldDrop, _) => answers.watched,
            (Verdict::Pass, Reason::Relay) => answers.relay,
            (Verdict::Pass, Reason::Exempt) => answers.exempt,
            (Verdict::Pass, Reason::Unknown) => answers.unknown,
            (Verdict::Pass, Reason::NotSyn) => answers.not_syn,
            (Verdict::Pass, Reason::NoPolicy) => answers.no_policy,
            (Verdict::Pass, Reason::Bypass) => answers.bypassed,
            // Behind `NotFiltered`: reasons that deny, and those of packets that the form cannot
            // describe.
            (
                Verdict::Pass,
                Reason::Other
                | Reason::NotFiltered
                | Reason::Policy
                | Reason::SourceRoute
                | Reason::Fragment
                | Reason::Headers
                | Reason::Link
                | Reason::Malformed,
            ) => match port {
                465 | 587 => answers.submission,
                _ => answers.other_port,
            },
        }
    }

    pub(super) const ENGLISH: Self = Self {
        lang: "en",
        other: ("ja", "日本語"),
        title: "Outbound port 25 blocking",
        enforcing: "Enforcing: all configured interfaces are covered.",
        degraded: "Degraded: see the problems below.",
        starting: "Starting.",
        form_title: "Why can't this customer send mail?",
        form_intro: "Enter the customer's address and that of the mail server. The policy in \
            force answers.",
        source: "Customer's IP address",
        destination: "Mail server's IP address",
        port: "Port",
        ask: "Ask",
        form_errors: FormErrors {
            source: "The customer's address is not an IP address. Enter for example 203.0.113.7 \
                or 2001:db8::7.",
            destination: "The mail server's address is not an IP address. Enter an address, not \
                a name: for example 198.51.100.25.",
            port: "The port is not a number from 0 to 65535. Mail uses 25.",
            families: "One address is IPv4, the other IPv6: no packet carries both. Enter two \
                addresses of the same family.",
        },
        failed: "The daemon cannot answer this question:",
        unavailable: "The daemon cannot answer now: its policy thread has stopped. The kernel \
            still filters. Restart opb and ask again.",
        advice: "What to tell the customer",
        steps: "Steps to the verdict",
        other_rules: "Rules on this node that opb did not make",
        other_rules_unknown: "Unknown whether other rules on this node block it",
        interfaces: "Interfaces",
        policy: "Policy",
        generation: "Generation",
        hour: "The last hour",
        chart: "Packets a minute to filtered ports over the last hour",
        minutes_ago: "60 minutes ago",
        now: "now",
        counters: "Counters by group",
        interface_counters: "Counters by interface",
        talkers: "Most denied customers",
        events: "Recent events",
        none: "None so far.",
        suspect: "suspect",
        relay_host: "new addresses of relay host",
        pause: "Pause updates",
        resume: "Resume updates",
        interface_columns: ["Interface", "Role", "Direction", "Hook"],
        counter_columns: ["Group", "Direction", "Verdict", "Reason", "Packets", "Bytes"],
        talker_columns: [
            "Customer",
            "Group",
            "Direction",
            "Denied packets",
            "A second",
            "Mail servers (estimate)",
            "Last seen",
        ],
        event_columns: ["Time", "Customer", "Mail server", "Group", "Verdict"],
        series: ["passed", "denied", "would be denied"],
        answers: &Answers {
            relay: [
                "This mail passes: the server is a relay designated for this customer.",
                "Blocking is not the cause. Check the settings of the mail program (server name, \
                 SMTP authentication), and whether there is a disruption.",
            ],
            exempt: [
                "This mail passes: the customer's address is exempt (for example a fixed IP \
                 address).",
                "Blocking is not the cause. Check the settings of the mail program or server.",
            ],
            unknown: [
                "This mail passes: the address is not in a blocked group.",
                "If the customer connects through another provider, that provider may block port \
                 25: use the submission port, 587, of your mail service.",
            ],
            other_port: [
                "This passes: the port is not filtered. Web mail is not affected either.",
                "Blocking is not the cause. Check the settings of the mail program.",
            ],
            submission: [
                "This passes: the submission port is never blocked.",
                "This is the right way. SMTP authentication must be switched on in the mail \
                 program; otherwise check its other settings.",
            ],
            not_syn: [
                "This packet passes: it belongs to an open connection.",
                "Blocking is not the cause.",
            ],
            denied: [
                "This mail is blocked: from a dynamic address, port 25 leads to the provider's \
                 own relays only.",
                "With another provider's mail service: set the mail program to the submission \
                 port, 587, with SMTP authentication. With an own mail server: send through the \
                 provider's relay, or get a fixed IP address. Web mail is not affected.",
            ],
            watched: [
                "This mail passes for now, but would be blocked once the group enforces.",
                "Before that, change to the submission port, 587, with SMTP authentication. With \
                 an own mail server: send through the provider's relay.",
            ],
            no_policy: ["All mail passes: no policy is in force.", "Inform the network operators."],
            other_rules: [
                "opb does not block this mail, but a rule of nftables or iptables on this node \
                 may.",
                "Inform the network operators: the rules are below.",
            ],
            bypassed: [
                "This mail passes for now: blocking is suspended in an emergency.",
                "Blocking is not the cause. When the bypass ends, this mail is blocked again: \
                 change to the submission port, 587, with SMTP authentication.",
            ],
        },
    };

    pub(super) const JAPANESE: Self = Self {
        lang: "ja",
        other: ("en", "English"),
        title: "Outbound Port 25 Blocking",
        enforcing: "規制中: 対象のすべてのインターフェースで動作しています。",
        degraded: "一部異常: 下の問題を確認してください。",
        starting: "起動中です。",
        form_title: "このお客さまはなぜメールを送信できないのか",
        form_intro: "お客さまとメールサーバの IP アドレスを入力してください。\
            現在有効なポリシーで判定します。",
        source: "お客さまの IP アドレス",
        destination: "メールサーバの IP アドレス",
        port: "ポート番号",
        ask: "調べる",
        form_errors: FormErrors {
            source: "お客さまの IP アドレスが正しくありません。203.0.113.7 や 2001:db8::7 \
                のように入力してください。",
            destination: "メールサーバの IP アドレスが正しくありません。サーバ名ではなく、\
                198.51.100.25 のように IP アドレスを入力してください。",
            port: "ポート番号が正しくありません。0 から 65535 までの数字を入力してください \
                (メールは 25 です)。",
            families: "IPv4 と IPv6 のアドレスが混在しています。両方とも IPv4、または両方とも \
                IPv6 で入力してください。",
        },
        failed: "この内容にはお答えできません:",
        unavailable: "現在お答えできません。ポリシーを管理する処理が停止しています \
            (フィルターは動作を続けています)。opb を再起動してから、もう一度お試しください。",
        advice: "お客さまへのご案内",
        steps: "判定の経緯",
        other_rules: "このノードの opb 以外のルール",
        other_rules_unknown: "このノードの他のルールの有無は確認できません",
        interfaces: "インターフェース",
        policy: "ポリシー",
        generation: "世代",
        hour: "過去 1 時間",
        chart: "過去 1 時間の規制対象ポート宛パケット数 (毎分)",
        minutes_ago: "60 分前",
        now: "現在",
        counters: "カウンター（グループ別）",
        interface_counters: "カウンター（インターフェース別）",
        talkers: "遮断の多いお客さま",
        events: "最近のイベント",
        none: "まだありません。",
        suspect: "感染の疑い",
        relay_host: "送信用メールサーバのアドレス変更:",
        pause: "更新を止める",
        resume: "更新を再開する",
        interface_columns: ["インターフェース", "役割", "方向", "フック"],
        counter_columns: ["グループ", "方向", "判定", "理由", "パケット", "バイト"],
        talker_columns: [
            "お客さま",
            "グループ",
            "方向",
            "遮断パケット",
            "毎秒",
            "宛先数 (推定)",
            "最終",
        ],
        event_columns: ["時刻", "お客さま", "メールサーバ", "グループ", "判定"],
        series: ["通過", "遮断", "監視 (遮断予定)"],
        answers: &Answers {
            relay: [
                "通過します。このお客さまに指定された送信用メールサーバ宛です。",
                "Outbound Port 25 Blocking の影響ではありません。メールソフトの設定 (サーバ名、\
                 SMTP 認証) と、障害情報をご確認ください。",
            ],
            exempt: [
                "通過します。固定 IP アドレスなど、規制の対象外のアドレスです。",
                "Outbound Port 25 Blocking の影響ではありません。\
                 メールソフトやメールサーバの設定をご確認ください。",
            ],
            unknown: [
                "通過します。規制の対象となるグループに含まれないアドレスです。",
                "他社プロバイダの回線をご利用の場合は、そのプロバイダが Port25 \
                 を規制している可能性があります。サブミッションポート (Port587) \
                 をご利用ください。",
            ],
            other_port: [
                "通過します。規制の対象ではないポートです。Web メールも影響を受けません。",
                "Outbound Port 25 Blocking の影響ではありません。\
                 メールソフトの設定をご確認ください。",
            ],
            submission: [
                "通過します。サブミッションポートは規制されません。",
                "正しい設定です。メールソフトで SMTP 認証を有効にし、\
                 そのほかの設定をご確認ください。",
            ],
            not_syn: [
                "通過します。すでに確立した接続のパケットです。",
                "Outbound Port 25 Blocking の影響ではありません。",
            ],
            denied: [
                "遮断されます。動的 IP アドレスからの Port25 は、\
                 指定の送信用メールサーバ宛に限られます。",
                "他社のメールサービスをご利用の場合は、メールソフトでサブミッションポート \
                 (Port587) と SMTP 認証を設定してください。\
                 ご自身でメールサーバを構築されている場合は、\
                 指定の送信用メールサーバを中継する設定にするか、固定 IP \
                 アドレスをご利用ください。Web メールは影響を受けません。",
            ],
            watched: [
                "現在は通過しますが、規制の開始後は遮断されます。",
                "規制の開始までに、サブミッションポート (Port587) と SMTP 認証の設定、\
                 または指定の送信用メールサーバを中継する設定への変更をお願いします。",
            ],
            no_policy: [
                "有効なポリシーがないため、すべて通過します。",
                "ネットワーク運用担当に連絡してください。",
            ],
            other_rules: [
                "opb では遮断していませんが、このノードの nftables または iptables \
                 のルールで遮断されている可能性があります。",
                "ネットワーク運用担当に連絡してください。該当するルールは下にあります。",
            ],
            bypassed: [
                "現在は緊急措置により規制を停止しているため、通過します。",
                "Outbound Port 25 Blocking の影響ではありません。規制の再開後は遮断されます。\
                 サブミッションポート (Port587) と SMTP 認証の設定をお願いします。",
            ],
        },
    };
}
